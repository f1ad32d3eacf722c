@group(0) @binding(2) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(3) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

@compute @workgroup_size(64)
fn calor_elementwise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[1].w, words[2].x);
    let item_count = u32(e0 * 5);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(5));
        let point: u32 = item / u32(5);
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let to0: i32 = words[1].x + o0 * words[1].y;
        let r0: f32 = a0[from0 + lane * 6];
        a1[to0 + lane] = r0;
    }
}
