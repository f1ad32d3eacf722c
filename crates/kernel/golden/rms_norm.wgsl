@group(0) @binding(3) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(4) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<u32>;
fn load_a0(at: i32) -> f32 {
    let shift = u32(at % 2) * 16u;
    return f16_value((a0[at / 2] >> shift) & 0xffffu);
}
@group(0) @binding(1) var<storage, read_write> a1: array<u32>;
fn load_a1(at: i32) -> f32 {
    let shift = u32(at % 2) * 16u;
    return f16_value((a1[at / 2] >> shift) & 0xffffu);
}
@group(0) @binding(2) var<storage, read_write> a2: array<atomic<u32>>;
fn load_a2(at: i32) -> f32 {
    let shift = u32(at % 2) * 16u;
    return f16_value((atomicLoad(&a2[at / 2]) >> shift) & 0xffffu);
}
fn store_a2(at: i32, value: f32) {
    let shift = u32(at % 2) * 16u;
    atomicAnd(&a2[at / 2], ~(0xffffu << shift));
    atomicOr(&a2[at / 2], (f16_bits(value) & 0xffffu) << shift);
}
var<workgroup> fold_sum_f32_values: array<f32, 128>;
fn fold_sum_f32(x: f32, t: i32) -> f32 {
    fold_sum_f32_values[t] = x;
    for (var distance = 64; 0 < distance; distance /= 2) {
        workgroupBarrier();
        if (t < distance) { fold_sum_f32_values[t] = (fold_sum_f32_values[t] + fold_sum_f32_values[t + distance]); }
    }
    return workgroupUniformLoad(&fold_sum_f32_values[0]);
}

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

fn f32_of_bits(bits: u32) -> f32 {
    var hidden = bits;
    return bitcast<f32>(hidden);
}

fn f16_value(bits: u32) -> f32 {
    let size = bits & 0x7fffu;
    let sign = (bits & 0x8000u) << 16u;
    if (0x7c00u <= size) { return f32_of_bits(sign | 0x7f800000u | ((size & 0x3ffu) << 13u)); }
    let small = bitcast<u32>(f32(size) * 5.9604645e-8);
    return bitcast<f32>(sign | select((size << 13u) + 0x38000000u, small, size < 0x400u));
}

fn f16_bits(x: f32) -> u32 {
    let word = bitcast<u32>(x);
    let sign = (word >> 16u) & 0x8000u;
    let size = word & 0x7fffffffu;
    if (0x7f800000u < size) { return sign | 0x7e00u; }
    if (0x477ff000u <= size) { return sign | 0x7c00u; }
    if (size < 0x38800000u) { return sign | u32(round(abs(x) * 16777216.0)); }
    return sign | ((size + 0xfffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u);
}

@compute @workgroup_size(128)
fn calor_row(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[2].z, words[2].w);
    let t: i32 = i32(local);
    let item_count = u32(e0);
    for (var item = group.x; item < item_count; item += groups.x) {
        let point: u32 = item;
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let from10: i32 = words[1].x + o0 * words[1].y;
        let to0: i32 = words[1].w + o0 * words[2].x;
        let r4: f32 = 2048.0f;
        let r6: f32 = 1e-6f;
        var r1: array<f32, 16>;
        var part3: f32 = 0.0f;
        for (var k: i32 = 0; k < 16; k++) {
            let lane: i32 = k * 128 + t;
            let r0: f32 = load_a0(from0 + lane);
            r1[k] = f32(r0);
            let r2: f32 = (r1[k] * r1[k]);
            part3 = (part3 + r2);
        }
        let r3: f32 = fold_sum_f32(part3, t);
        let r5: f32 = (r3 / r4);
        let r7: f32 = (r5 + r6);
        let r8: f32 = sqrt(r7);
        for (var k: i32 = 0; k < 16; k++) {
            let lane: i32 = k * 128 + t;
            let r9: f32 = (r1[k] / r8);
            let r10: f32 = load_a1(from10 + lane);
            let r11: f32 = f32(r10);
            let r12: f32 = (r9 * r11);
            let r13: f32 = f16_value(f16_bits(f32(r12)));
            store_a2(to0 + lane, r13);
        }
    }
}
