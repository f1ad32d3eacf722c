@group(0) @binding(2) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(3) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<i32>;
@group(0) @binding(1) var<storage, read_write> a1: array<i32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

@compute @workgroup_size(1)
fn calor_scatter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[2].y, words[2].z);
    let point_count = u32(e0);
    for (var point = 0u; point < point_count; point++) {
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let to0: i32 = words[1].x + o0 * words[1].y;
        let r1: i32 = i32(1);
        for (var k: i32 = 0; k < 19; k++) {
            let lane: i32 = k;
            let r0: i32 = a0[from0 + lane];
            a1[to0 + clamp(i32(r0), 0, words[2].x - 1) * words[1].w] = (a1[to0 + clamp(i32(r0), 0, words[2].x - 1) * words[1].w] + r1);
        }
    }
}
