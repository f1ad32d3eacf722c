@group(0) @binding(3) var<uniform> words: array<vec4<i32>, 4>;
@group(0) @binding(4) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<i32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

@compute @workgroup_size(32)
fn calor_scatter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[3].x, words[3].y);
    let lane: i32 = i32(group.x * 32u + local);
    if (lane < 33) {
        let point_count = u32(e0);
        for (var point = 0u; point < point_count; point++) {
            let o0: i32 = i32(point);
            let from0: i32 = words[0].y + o0 * words[0].z;
            let from1: i32 = words[1].x + o0 * words[1].y;
            let to0: i32 = words[1].w + o0 * words[2].x;
            let r0: i32 = a1[from0];
            let r1: f32 = a0[from1 + lane];
            a2[to0 + clamp(i32(r0), 0, words[2].w - 1) * words[2].z + lane] = (a2[to0 + clamp(i32(r0), 0, words[2].w - 1) * words[2].z + lane] + r1);
        }
    }
}
