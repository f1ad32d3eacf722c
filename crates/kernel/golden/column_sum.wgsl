@group(0) @binding(2) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(3) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;

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
    let e0: i32 = live_word(words[0].x, words[2].x, words[2].y);
    let x7: i32 = live_word(words[1].w, words[2].z, words[2].w);
    let item_count = u32(e0 * 24);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(24));
        let point: u32 = item / u32(24);
        let o0: i32 = i32(point);
        let from6: i32 = words[0].y + o0 * words[0].z;
        let to0: i32 = words[1].x + o0 * words[1].y;
        let r0: i32 = o0;
        let r1: i32 = i32(6);
        let r2: i32 = i32(x7);
        let r3: i32 = (r0 * r1);
        let r4: i32 = (r3 + r1);
        let r5: i32 = min(r4, r2);
        var r7: f32 = 0.0f;
        for (var step: i32 = r3; step < r5; step++) {
            let r6: f32 = a0[from6 + step * words[0].w + lane];
            r7 = (r7 + r6);
        }
        a1[to0 + lane] = r7;
    }
}
