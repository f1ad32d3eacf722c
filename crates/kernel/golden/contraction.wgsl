@group(0) @binding(3) var<uniform> words: array<vec4<i32>, 4>;
@group(0) @binding(4) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

@compute @workgroup_size(64)
fn calor_steps(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[2].w, words[3].x);
    let x10: i32 = live_word(words[2].z, words[3].y, words[3].z);
    let item_count = u32(e0 * 20);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(20));
        let point: u32 = item / u32(20);
        let o0: i32 = i32(point);
        let from2: i32 = words[0].y + o0 * words[0].z;
        let from3: i32 = words[1].x + o0 * words[1].y;
        let to0: i32 = words[1].w + o0 * words[2].x;
        let r0: i32 = i32(0);
        let r1: i32 = i32(x10);
        var r5: f32 = 0.0f;
        for (var step: i32 = r0; step < r1; step++) {
            let r2: f32 = a0[from2 + step * words[0].w];
            let r3: f32 = a1[from3 + step * words[1].z + lane];
            let r4: f32 = (r2 * r3);
            r5 = (r5 + r4);
        }
        a2[to0 + lane] = r5;
    }
}
