@group(0) @binding(3) var<uniform> words: array<vec4<i32>, 5>;
@group(0) @binding(4) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;

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
    let e0: i32 = live_word(words[0].x, words[3].z, words[3].w);
    let e1: i32 = live_word(words[0].y, words[4].x, words[4].y);
    let item_count = u32(e0 * e1 * 48);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(48));
        let point: u32 = item / u32(48);
        let o1: i32 = i32(point % u32(e1));
        let rest1: u32 = point / u32(e1);
        let o0: i32 = i32(rest1);
        let from0: i32 = words[0].z + o0 * words[0].w + o1 * words[1].x;
        let from1: i32 = words[1].z + o0 * words[1].w + o1 * words[2].x;
        let to0: i32 = words[2].z + o0 * words[2].w + o1 * words[3].x;
        let r0: f32 = a0[from0 + lane];
        let r1: f32 = a1[from1 + lane];
        let r2: f32 = (r0 + r1);
        a2[to0 + lane] = r2;
    }
}
