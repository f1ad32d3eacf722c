@group(0) @binding(2) var<uniform> words: array<vec4<i32>, 3>;
@group(0) @binding(3) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<u32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

fn shift_right_u32(a: u32, distance: u32, width: u32) -> u32 {
    return select(0u, a >> (distance & 31u), distance < width);
}

fn high_word(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let middle = a1 * b0 + ((a0 * b0) >> 16u);
    let other = a0 * b1 + (middle & 0xffffu);
    return a1 * b1 + (middle >> 16u) + (other >> 16u);
}
fn philox(key0: u32, key1: u32, counter: u32) -> u32 {
    var k = vec2<u32>(key0, key1);
    var c = vec4<u32>(counter, 0u, 0u, 0u);
    for (var round = 0; round < 10; round++) {
        let high0 = high_word(0xd2511f53u, c.x);
        let high1 = high_word(0xcd9e8d57u, c.z);
        c = vec4<u32>(high1 ^ c.y ^ k.x, 0xcd9e8d57u * c.z, high0 ^ c.w ^ k.y, 0xd2511f53u * c.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c.x;
}

@compute @workgroup_size(64)
fn calor_elementwise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[2].z, words[2].w);
    let item_count = u32(e0 * 16);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(16));
        let point: u32 = item / u32(16);
        let o0: i32 = i32(point);
        let from0: i32 = words[0].y + o0 * words[0].z;
        let from1: i32 = words[1].x + o0 * words[1].y;
        let to0: i32 = words[1].w + o0 * words[2].x;
        let r0: u32 = a0[from0];
        let r1: u32 = a0[from1];
        let r2: i32 = o0;
        let r3: i32 = lane;
        let r4: i32 = i32(16);
        let r5: i32 = (r2 * r4);
        let r6: i32 = (r5 + r3);
        let r7: u32 = u32(r6);
        let r8: u32 = philox(r0, r1, r7);
        let r9: u32 = 8u;
        let r10: u32 = shift_right_u32(r8, u32(r9), 32u);
        let r11: f32 = f32(r10);
        let r12: f32 = 5.9604645e-8f;
        let r13: f32 = (r11 * r12);
        a1[to0 + lane] = r13;
    }
}
