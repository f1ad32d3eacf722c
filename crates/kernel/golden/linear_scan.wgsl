@group(0) @binding(4) var<uniform> words: array<vec4<i32>, 5>;
@group(0) @binding(5) var<storage, read> live: array<u32>;
@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;
@group(0) @binding(3) var<storage, read_write> a3: array<f32>;

fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

@compute @workgroup_size(64)
fn calor_scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e0: i32 = live_word(words[0].x, words[3].z, words[3].w);
    let x13: i32 = live_word(words[3].y, words[4].x, words[4].y);
    let item_count = u32(e0 * 8);
    for (var item = group.x * 64u + local; item < item_count; item += groups.x * 64u) {
        let lane: i32 = i32(item % u32(8));
        let point: u32 = item / u32(8);
        let o0: i32 = i32(point);
        let from2: i32 = words[0].y + o0 * words[0].z;
        let from3: i32 = words[1].x + o0 * words[1].y;
        let from4: i32 = words[1].w + o0 * words[2].x;
        var r5: f32;
        let to0: i32 = words[2].z + o0 * words[2].w;
        let r0: i32 = i32(0);
        let r1: i32 = i32(x13);
        let r2: f32 = a2[from2 + lane];
        r5 = r2;
        for (var step: i32 = r0; step < r1; step++) {
            let r3: f32 = a0[from3 + step * words[1].z + lane];
            let r4: f32 = a1[from4 + step * words[2].y + lane];
            r5 = ((r3 * r5) + r4);
            a3[to0 + step * words[3].x + lane] = r5;
        }
    }
}
