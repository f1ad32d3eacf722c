@group(0) @binding(7) var<uniform> words: array<vec4<i32>, 6>;
@group(0) @binding(8) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;
@group(0) @binding(3) var<storage, read_write> a3: array<f32>;
@group(0) @binding(4) var<storage, read_write> a4: array<f32>;
@group(0) @binding(5) var<storage, read_write> a5: array<f32>;
@group(0) @binding(6) var<storage, read_write> a6: array<f32>;
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

@compute @workgroup_size(64)
fn calor_row(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[5].z, words[5].w);
    let t: i32 = i32(local);
    let item_count = u32(e0);
    for (var item = group.x; item < item_count; item += groups.x) {
        let point: u32 = item;
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let from1: i32 = words[1].x + o0 * words[1].y;
        let from15: i32 = words[1].w + o0 * words[2].x;
        let from16: i32 = words[2].z + o0 * words[2].w;
        let to0: i32 = words[3].y + o0 * words[3].z;
        let to1: i32 = words[4].x + o0 * words[4].y;
        let to2: i32 = words[4].w + o0 * words[5].x;
        let r4: f32 = 768.0f;
        let r9: f32 = 768.0f;
        let r11: f32 = 1e-12f;
        var r2: array<f32, 12>;
        var part3: f32 = 0.0f;
        for (var k: i32 = 0; k < 12; k++) {
            let lane: i32 = k * 64 + t;
            let r0: f32 = a0[from0 + lane];
            let r1: f32 = a1[from1 + lane];
            r2[k] = (r0 + r1);
            part3 = (part3 + r2[k]);
        }
        let r3: f32 = fold_sum_f32(part3, t);
        let r5: f32 = (r3 / r4);
        var r6: array<f32, 12>;
        var part8: f32 = 0.0f;
        for (var k: i32 = 0; k < 12; k++) {
            let lane: i32 = k * 64 + t;
            r6[k] = (r2[k] - r5);
            let r7: f32 = (r6[k] * r6[k]);
            part8 = (part8 + r7);
        }
        let r8: f32 = fold_sum_f32(part8, t);
        let r10: f32 = (r8 / r9);
        let r12: f32 = (r10 + r11);
        let r13: f32 = sqrt(r12);
        for (var k: i32 = 0; k < 12; k++) {
            let lane: i32 = k * 64 + t;
            let r14: f32 = (r6[k] / r13);
            let r15: f32 = a2[from15 + lane];
            let r16: f32 = a3[from16 + lane];
            let r17: f32 = (r14 * r15);
            let r18: f32 = (r17 + r16);
            a4[to0 + lane] = r18;
            a5[to1 + lane] = r2[k];
        }
        if (t == 0) {
            a6[to2] = r5;
        }
    }
}
