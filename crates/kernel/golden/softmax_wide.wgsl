@group(0) @binding(2) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(3) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;
var<workgroup> fold_sum_f32_values: array<f32, 256>;
fn fold_sum_f32(x: f32, t: i32) -> f32 {
    fold_sum_f32_values[t] = x;
    for (var distance = 128; 0 < distance; distance /= 2) {
        workgroupBarrier();
        if (t < distance) { fold_sum_f32_values[t] = (fold_sum_f32_values[t] + fold_sum_f32_values[t + distance]); }
    }
    return workgroupUniformLoad(&fold_sum_f32_values[0]);
}
var<workgroup> fold_max_f32_values: array<f32, 256>;
fn fold_max_f32(x: f32, t: i32) -> f32 {
    fold_max_f32_values[t] = x;
    for (var distance = 128; 0 < distance; distance /= 2) {
        workgroupBarrier();
        if (t < distance) { fold_max_f32_values[t] = larger_f32(fold_max_f32_values[t], fold_max_f32_values[t + distance]); }
    }
    return workgroupUniformLoad(&fold_max_f32_values[0]);
}

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

@compute @workgroup_size(256)
fn calor_row(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[1].w, words[2].x);
    let t: i32 = i32(local);
    let item_count = u32(e0);
    for (var item = group.x; item < item_count; item += groups.x) {
        let point: u32 = item;
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let to0: i32 = words[1].x + o0 * words[1].y;
        var part1: f32 = f32_of_bits(0xff800000u);
        for (var k: i32 = 0; k < 79; k++) {
            let lane: i32 = k * 256 + t;
            if (lane < 20000) {
                let r0: f32 = a0[from0 + lane];
                part1 = larger_f32(part1, r0);
            }
        }
        let r1: f32 = fold_max_f32(part1, t);
        var part4: f32 = 0.0f;
        for (var k: i32 = 0; k < 79; k++) {
            let lane: i32 = k * 256 + t;
            if (lane < 20000) {
                let r0: f32 = a0[from0 + lane];
                let r2: f32 = (r0 - r1);
                let r3: f32 = exp(r2);
                part4 = (part4 + r3);
            }
        }
        let r4: f32 = fold_sum_f32(part4, t);
        for (var k: i32 = 0; k < 79; k++) {
            let lane: i32 = k * 256 + t;
            if (lane < 20000) {
                let r0: f32 = a0[from0 + lane];
                let r2: f32 = (r0 - r1);
                let r3: f32 = exp(r2);
                let r5: f32 = (r3 / r4);
                a1[to0 + lane] = r5;
            }
        }
    }
}
