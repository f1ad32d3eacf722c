@group(0) @binding(4) var<uniform> words: array<vec4<i32>, 6>;
@group(0) @binding(5) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<i32>;
@group(0) @binding(1) var<storage, read_write> a1: array<u32>;
fn load_a1(at: i32) -> bool {
    let shift = u32(at % 4) * 8u;
    return ((a1[at / 4] >> shift) & 0xffu) != 0u;
}
@group(0) @binding(2) var<storage, read_write> a2: array<i32>;
@group(0) @binding(3) var<storage, read_write> a3: array<atomic<u32>>;
fn load_a3(at: i32) -> bool {
    let shift = u32(at % 4) * 8u;
    return ((atomicLoad(&a3[at / 4]) >> shift) & 0xffu) != 0u;
}
fn store_a3(at: i32, value: bool) {
    let shift = u32(at % 4) * 8u;
    atomicAnd(&a3[at / 4], ~(0xffu << shift));
    atomicOr(&a3[at / 4], (u32(value) & 0xffu) << shift);
}
var<workgroup> fold_max_bool_values: array<bool, 64>;
fn fold_max_bool(x: bool, t: i32) -> bool {
    fold_max_bool_values[t] = x;
    for (var distance = 32; 0 < distance; distance /= 2) {
        workgroupBarrier();
        if (t < distance) { fold_max_bool_values[t] = (fold_max_bool_values[t] || fold_max_bool_values[t + distance]); }
    }
    return workgroupUniformLoad(&fold_max_bool_values[0]);
}
var<workgroup> fold_sum_i32_values: array<i32, 64>;
fn fold_sum_i32(x: i32, t: i32) -> i32 {
    fold_sum_i32_values[t] = x;
    for (var distance = 32; 0 < distance; distance /= 2) {
        workgroupBarrier();
        if (t < distance) { fold_sum_i32_values[t] = (fold_sum_i32_values[t] + fold_sum_i32_values[t + distance]); }
    }
    return workgroupUniformLoad(&fold_sum_i32_values[0]);
}
var<workgroup> fold_max_i32_values: array<i32, 64>;
fn fold_max_i32(x: i32, t: i32) -> i32 {
    fold_max_i32_values[t] = x;
    for (var distance = 32; 0 < distance; distance /= 2) {
        workgroupBarrier();
        if (t < distance) { fold_max_i32_values[t] = max(fold_max_i32_values[t], fold_max_i32_values[t + distance]); }
    }
    return workgroupUniformLoad(&fold_max_i32_values[0]);
}
var<workgroup> fold_min_i32_values: array<i32, 64>;
fn fold_min_i32(x: i32, t: i32) -> i32 {
    fold_min_i32_values[t] = x;
    for (var distance = 32; 0 < distance; distance /= 2) {
        workgroupBarrier();
        if (t < distance) { fold_min_i32_values[t] = min(fold_min_i32_values[t], fold_min_i32_values[t + distance]); }
    }
    return workgroupUniformLoad(&fold_min_i32_values[0]);
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
    let e0: i32 = live_word(words[0].x, words[4].w, words[5].x);
    let t: i32 = i32(local);
    let item_count = u32(e0);
    for (var item = group.x; item < item_count; item += groups.x) {
        let point: u32 = item;
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let from1: i32 = words[1].x + o0 * words[1].y;
        let to0: i32 = words[1].w + o0 * words[2].x;
        let to1: i32 = words[2].z + o0 * words[2].w;
        let to2: i32 = words[3].y + o0 * words[3].z;
        let to3: i32 = words[4].x + o0 * words[4].y;
        let lane: i32 = t;
        var part2: i32 = i32(0);
        var part3: i32 = i32(-2147483648);
        var part4: i32 = i32(2147483647);
        var part5: bool = false;
        if (lane < 37) {
            let r0: i32 = a0[from0 + lane];
            let r1: bool = load_a1(from1 + lane);
            part2 = (part2 + r0);
            part3 = max(part3, r0);
            part4 = min(part4, r0);
            part5 = (part5 || r1);
        }
        let r2: i32 = fold_sum_i32(part2, t);
        let r3: i32 = fold_max_i32(part3, t);
        let r4: i32 = fold_min_i32(part4, t);
        let r5: bool = fold_max_bool(part5, t);
        if (t == 0) {
            a2[to0] = r2;
        }
        if (t == 0) {
            a2[to1] = r3;
        }
        if (t == 0) {
            a2[to2] = r4;
        }
        if (t == 0) {
            store_a3(to3, r5);
        }
    }
}
