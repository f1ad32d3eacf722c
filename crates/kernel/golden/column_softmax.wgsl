@group(0) @binding(2) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(3) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

fn f32_of_bits(bits: u32) -> f32 {
    var hidden = bits;
    return bitcast<f32>(hidden);
}

fn is_nan(x: f32) -> bool {
    return 0x7f800000u < (bitcast<u32>(x) & 0x7fffffffu);
}

fn larger_f32(a: f32, b: f32) -> f32 {
    if (is_nan(a)) { return a; }
    if (is_nan(b)) { return b; }
    return max(a, b);
}

@compute @workgroup_size(64)
fn calor_steps(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[2].x, words[2].y);
    let x7: i32 = live_word(words[1].w, words[2].z, words[2].w);
    let item_count = u32(e0 * 6);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(6));
        let point: u32 = item / u32(6);
        let o0: i32 = i32(point);
        let from2: i32 = words[0].y + o0 * words[0].z;
        let to0: i32 = words[1].x + o0 * words[1].y;
        let r0: i32 = i32(0);
        let r1: i32 = i32(x7);
        var r3: f32 = f32_of_bits(0xff800000u);
        for (var step: i32 = r0; step < r1; step++) {
            let r2: f32 = a0[from2 + step * words[0].w + lane];
            r3 = larger_f32(r3, r2);
        }
        var r6: f32 = 0.0f;
        for (var step: i32 = r0; step < r1; step++) {
            let r2: f32 = a0[from2 + step * words[0].w + lane];
            let r4: f32 = (r2 - r3);
            let r5: f32 = exp(r4);
            r6 = (r6 + r5);
        }
        for (var step: i32 = r0; step < r1; step++) {
            let r2: f32 = a0[from2 + step * words[0].w + lane];
            let r4: f32 = (r2 - r3);
            let r5: f32 = exp(r4);
            let r7: f32 = (r5 / r6);
            a1[to0 + step * words[1].z + lane] = r7;
        }
    }
}
