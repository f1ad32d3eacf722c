@group(0) @binding(3) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(4) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<u32>;
fn load_a0(at: i32) -> f32 {
    let shift = u32(at % 2) * 16u;
    return bf16_value((a0[at / 2] >> shift) & 0xffffu);
}
@group(0) @binding(1) var<storage, read_write> a1: array<u32>;
fn load_a1(at: i32) -> f32 {
    let shift = u32(at % 2) * 16u;
    return bf16_value((a1[at / 2] >> shift) & 0xffffu);
}
@group(0) @binding(2) var<storage, read_write> a2: array<atomic<u32>>;
fn load_a2(at: i32) -> f32 {
    let shift = u32(at % 2) * 16u;
    return bf16_value((atomicLoad(&a2[at / 2]) >> shift) & 0xffffu);
}
fn store_a2(at: i32, value: f32) {
    let shift = u32(at % 2) * 16u;
    atomicAnd(&a2[at / 2], ~(0xffffu << shift));
    atomicOr(&a2[at / 2], (bf16_bits(value) & 0xffffu) << shift);
}

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

fn is_nan(x: f32) -> bool {
    return 0x7f800000u < (bitcast<u32>(x) & 0x7fffffffu);
}

fn bf16_value(bits: u32) -> f32 {
    return bitcast<f32>(bits << 16u);
}

fn bf16_bits(x: f32) -> u32 {
    let word = bitcast<u32>(x);
    if (is_nan(x)) { return 0x7fffu; }
    return (word + 0x7fffu + ((word >> 16u) & 1u)) >> 16u;
}

// Up to one a Maclaurin series, beyond it formula 7.1.26 of Abramowitz and Stegun; the error is
// below 5e-7.
fn erf_f32(x: f32) -> f32 {
    if (is_nan(x)) { return x; }
    let size = abs(x);
    let square = x * x;
    if (size <= 1.0) {
        var sum = 1.4807193e-08f;
        sum = sum * square - 1.63658447e-07f;
        sum = sum * square + 1.6462114e-06f;
        sum = sum * square - 1.492565e-05f;
        sum = sum * square + 0.0001205533298f;
        sum = sum * square - 0.0008548327f;
        sum = sum * square + 0.005223978f;
        sum = sum * square - 0.026866171f;
        sum = sum * square + 0.11283792f;
        sum = sum * square - 0.37612639f;
        sum = sum * square + 1.1283792f;
        return sum * x;
    }
    let t = 1.0 / (1.0 + 0.3275911 * size);
    let poly = ((((1.0614054f * t - 1.4531521f) * t + 1.4214138f) * t - 0.28449672f) * t
        + 0.2548296f) * t;
    let value = 1.0 - poly * exp(-min(square, 80.0));
    return select(value, -value, x < 0.0);
}

@compute @workgroup_size(64)
fn calor_elementwise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[2].z, words[2].w);
    let item_count = u32(e0 * 64);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(64));
        let point: u32 = item / u32(64);
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let from1: i32 = words[1].x + o0 * words[1].y;
        let to0: i32 = words[1].w + o0 * words[2].x;
        let r0: f32 = load_a0(from0 + lane);
        let r1: f32 = load_a1(from1 + lane);
        let r2: f32 = f32(r0);
        let r3: f32 = f32(r1);
        let r4: f32 = (r2 + r3);
        let r5: f32 = 0.70710677f;
        let r6: f32 = (r4 * r5);
        let r7: f32 = erf_f32(r6);
        let r8: f32 = 1.0f;
        let r9: f32 = 0.5f;
        let r10: f32 = (r7 + r8);
        let r11: f32 = (r10 * r9);
        let r12: f32 = (r4 * r11);
        let r13: f32 = bf16_value(bf16_bits(f32(r12)));
        store_a2(to0 + lane, r13);
    }
}
