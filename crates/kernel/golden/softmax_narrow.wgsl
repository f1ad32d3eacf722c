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
fn calor_row(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[1].w, words[2].x);
    let item_count = u32(e0);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let point: u32 = item;
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let to0: i32 = words[1].x + o0 * words[1].y;
        var r0: array<f32, 8>;
        var r1: f32 = f32_of_bits(0xff800000u);
        for (var k: i32 = 0; k < 8; k++) {
            let lane: i32 = k;
            r0[k] = a0[from0 + lane];
            r1 = larger_f32(r1, r0[k]);
        }
        var r3: array<f32, 8>;
        var r4: f32 = 0.0f;
        for (var k: i32 = 0; k < 8; k++) {
            let lane: i32 = k;
            let r2: f32 = (r0[k] - r1);
            r3[k] = exp(r2);
            r4 = (r4 + r3[k]);
        }
        for (var k: i32 = 0; k < 8; k++) {
            let lane: i32 = k;
            let r5: f32 = (r3[k] / r4);
            a1[to0 + lane] = r5;
        }
    }
}
