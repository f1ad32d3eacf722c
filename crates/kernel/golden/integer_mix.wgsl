@group(0) @binding(4) var<uniform> words: array<vec4<i32>, 4>;
@group(0) @binding(5) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<i32>;
@group(0) @binding(1) var<storage, read_write> a1: array<i32>;
@group(0) @binding(2) var<storage, read_write> a2: array<i32>;
@group(0) @binding(3) var<storage, read_write> a3: array<i32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

fn quotient_i32(a: i32, b: i32) -> i32 {
    if (b == 0) { return 0; }
    if (b == -1) { return 0 - a; }
    return a / b;
}

fn remainder_i32(a: i32, b: i32) -> i32 {
    if (b == 0 || b == -1) { return 0; }
    let rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) { return rest + b; }
    return rest;
}

fn shift_left_i32(a: i32, distance: u32, width: u32) -> i32 {
    return select(0, a << (distance & 31u), distance < width);
}

fn shift_right_i32(a: i32, distance: u32, width: u32) -> i32 {
    return a >> min(distance, width - 1u);
}

@compute @workgroup_size(64)
fn calor_elementwise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[3].y, words[3].z);
    let item_count = u32(e0 * 8);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(8));
        let point: u32 = item / u32(8);
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let from1: i32 = words[1].x + o0 * words[1].y;
        let to0: i32 = words[1].w + o0 * words[2].x;
        let to1: i32 = words[2].z + o0 * words[2].w;
        let r0: i32 = a0[from0 + lane];
        let r1: i32 = a1[from1 + lane];
        let r2: i32 = i32(31);
        let r3: i32 = i32(17);
        let r4: i32 = (r0 + r1);
        let r5: i32 = (r3 * r2);
        let r6: i32 = (r5 + r4);
        let r7: i32 = (r0 - r1);
        let r8: i32 = (r6 * r2);
        let r9: i32 = (r8 + r7);
        let r10: i32 = (r0 * r1);
        let r11: i32 = (r9 * r2);
        let r12: i32 = (r11 + r10);
        let r13: i32 = quotient_i32(r0, r1);
        let r14: i32 = (r12 * r2);
        let r15: i32 = (r14 + r13);
        let r16: i32 = remainder_i32(r0, r1);
        let r17: i32 = (r15 * r2);
        let r18: i32 = (r17 + r16);
        let r19: i32 = max(r0, r1);
        let r20: i32 = (r18 * r2);
        let r21: i32 = (r20 + r19);
        let r22: i32 = min(r0, r1);
        let r23: i32 = (r21 * r2);
        let r24: i32 = (r23 + r22);
        let r25: bool = (r0 < r1);
        let r26: i32 = i32(r25);
        let r27: i32 = (r24 * r2);
        let r28: i32 = (r27 + r26);
        let r29: bool = (r0 <= r1);
        let r30: i32 = i32(r29);
        let r31: i32 = (r28 * r2);
        let r32: i32 = (r31 + r30);
        let r33: bool = (r0 == r1);
        let r34: i32 = i32(r33);
        let r35: i32 = (r32 * r2);
        let r36: i32 = (r35 + r34);
        let r37: i32 = (r0 & r1);
        let r38: i32 = (r36 * r2);
        let r39: i32 = (r38 + r37);
        let r40: i32 = (r0 | r1);
        let r41: i32 = (r39 * r2);
        let r42: i32 = (r41 + r40);
        let r43: i32 = (r0 ^ r1);
        let r44: i32 = (r42 * r2);
        let r45: i32 = (r44 + r43);
        let r46: i32 = shift_left_i32(r0, u32(r1), 32u);
        let r47: i32 = (r45 * r2);
        let r48: i32 = (r47 + r46);
        let r49: i32 = shift_right_i32(r0, u32(r1), 32u);
        let r50: i32 = (r48 * r2);
        let r51: i32 = (r50 + r49);
        let r52: i32 = (0 - r0);
        let r53: i32 = (r51 ^ r52);
        let r54: i32 = abs(r0);
        let r55: i32 = (r53 ^ r54);
        let r56: i32 = (~r0);
        let r57: i32 = (r55 ^ r56);
        let r58: bool = (r0 < r1);
        let r59: i32 = select(r1, r0, r58);
        a2[to0 + lane] = r57;
        a3[to1 + lane] = r59;
    }
}
