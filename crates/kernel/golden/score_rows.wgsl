@group(0) @binding(5) var<uniform> words: array<vec4<i32>, 6>;
@group(0) @binding(6) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;
@group(0) @binding(3) var<storage, read_write> a3: array<f32>;
@group(0) @binding(4) var<storage, read_write> a4: array<f32>;
var<workgroup> agreed_value: i32;
fn agreed(value: i32, local: u32) -> i32 {
    if (local == 0u) { agreed_value = value; }
    return workgroupUniformLoad(&agreed_value);
}
var<workgroup> fold_sum_f32_values: array<f32, 64>;
fn fold_sum_f32(x: f32, t: i32) -> f32 {
    fold_sum_f32_values[t] = x;
    for (var distance = 32; 0 < distance; distance /= 2) {
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

fn is_nan(x: f32) -> bool {
    return 0x7f800000u < (bitcast<u32>(x) & 0x7fffffffu);
}

fn larger_f32(a: f32, b: f32) -> f32 {
    if (is_nan(a)) { return a; }
    if (is_nan(b)) { return b; }
    return max(a, b);
}

@compute @workgroup_size(64)
fn calor_scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[4].y, words[4].z);
    let x16: i32 = live_word(words[4].x, words[4].w, words[5].x);
    let t: i32 = i32(local);
    let item_count = u32(e0);
    for (var item = group.x; item < item_count; item += groups.x) {
        let point: u32 = item;
        let o0: i32 = i32(point);
        let from2: i32 = words[0].y + o0 * words[0].z;
        let from3: i32 = words[1].x + o0 * words[1].y;
        var r17: f32;
        let to0: i32 = words[1].w + o0 * words[2].x;
        let to1: i32 = words[2].z + o0 * words[2].w;
        let to2: i32 = words[3].y + o0 * words[3].z;
        let lane: i32 = t;
        let r0: i32 = i32(0);
        let r1: i32 = i32(x16);
        let r7: i32 = o0;
        let r8: i32 = i32(3);
        let r9: i32 = (r7 + r8);
        let r11: f32 = 0.0f;
        let r16: f32 = 0.5f;
        var r13: f32 = f32_of_bits(0xff800000u);
        r17 = r11;
        var r2: f32;
        var r15: f32;
        if (lane < 40) {
            r15 = 0.0f;
            r2 = a0[from2 + lane];
        }
        {
            let lo: i32 = agreed(r0, local);
            let hi: i32 = agreed(r1, local);
            for (var step: i32 = lo; step < hi; step++) {
                let r6: i32 = step;
                let r10: bool = (r6 <= r9);
                var r3: f32;
                var part5: f32 = 0.0f;
                if (lane < 40) {
                    r3 = a1[from3 + step * words[1].z + lane];
                    let r4: f32 = (r2 * r3);
                    part5 = (part5 + r4);
                }
                let r5: f32 = fold_sum_f32(part5, t);
                let r12: f32 = select(r11, r5, r10);
                r17 = ((r16 * r17) + r12);
                if (lane < 40) {
                    let r14: f32 = (r3 * r12);
                    r15 = (r15 + r14);
                }
                r13 = larger_f32(r13, r12);
                if (t == 0) {
                    a4[to2 + step * words[3].w] = r17;
                }
            }
        }
        if (lane < 40) {
            a3[to1 + lane] = r15;
        }
        if (t == 0) {
            a2[to0] = r13;
        }
    }
}
