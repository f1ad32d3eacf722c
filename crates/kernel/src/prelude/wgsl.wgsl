// live_word
fn live_word(word: i32, count: i32, scale: i32) -> i32 {
    if (count < 0) { return word; }
    return min(word, i32(live[count]) * scale);
}

// f32_of_bits
fn f32_of_bits(bits: u32) -> f32 {
    var hidden = bits;
    return bitcast<f32>(hidden);
}

// is_nan
fn is_nan(x: f32) -> bool {
    return 0x7f800000u < (bitcast<u32>(x) & 0x7fffffffu);
}

// bf16_value
fn bf16_value(bits: u32) -> f32 {
    return bitcast<f32>(bits << 16u);
}

// bf16_bits
fn bf16_bits(x: f32) -> u32 {
    let word = bitcast<u32>(x);
    if (is_nan(x)) { return 0x7fffu; }
    return (word + 0x7fffu + ((word >> 16u) & 1u)) >> 16u;
}

// f16_value
fn f16_value(bits: u32) -> f32 {
    let size = bits & 0x7fffu;
    let sign = (bits & 0x8000u) << 16u;
    if (0x7c00u <= size) { return f32_of_bits(sign | 0x7f800000u | ((size & 0x3ffu) << 13u)); }
    let small = bitcast<u32>(f32(size) * 5.9604645e-8);
    return bitcast<f32>(sign | select((size << 13u) + 0x38000000u, small, size < 0x400u));
}

// f16_bits
fn f16_bits(x: f32) -> u32 {
    let word = bitcast<u32>(x);
    let sign = (word >> 16u) & 0x8000u;
    let size = word & 0x7fffffffu;
    if (0x7f800000u < size) { return sign | 0x7e00u; }
    if (0x477ff000u <= size) { return sign | 0x7c00u; }
    if (size < 0x38800000u) { return sign | u32(round(abs(x) * 16777216.0)); }
    return sign | ((size + 0xfffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u);
}

// f8_value
fn f8_value(bits: u32) -> f32 {
    let size = bits & 0x7fu;
    let sign = (bits & 0x80u) << 24u;
    if (size == 0x7fu) { return f32_of_bits(0x7fffffffu); }
    if (size < 8u) { return bitcast<f32>(bitcast<u32>(f32(size) * 0.001953125) | sign); }
    return bitcast<f32>(((size << 20u) + 0x3c000000u) | sign);
}

// f8_bits
fn f8_bits(x: f32) -> u32 {
    let word = bitcast<u32>(x);
    let sign = (word >> 24u) & 0x80u;
    let size = word & 0x7fffffffu;
    if (is_nan(x)) { return sign | 0x7fu; }
    if (0x43e00000u <= size) { return sign | 0x7eu; }
    if (size < 0x3c800000u) { return sign | u32(round(abs(x) * 512.0)); }
    return sign | ((size + 0x7ffffu + ((size >> 20u) & 1u) - 0x3c000000u) >> 20u);
}

// i32_of
fn i32_of(x: f32) -> i32 {
    if (is_nan(x)) { return 0; }
    if (2147483648.0 <= x) { return 2147483647; }
    if (x <= -2147483648.0) { return i32(-2147483648); }
    return i32(x);
}

// u32_of
fn u32_of(x: f32) -> u32 {
    if (is_nan(x) || x <= 0.0) { return 0u; }
    if (4294967296.0 <= x) { return 4294967295u; }
    return u32(x);
}

// quotient_i32
fn quotient_i32(a: i32, b: i32) -> i32 {
    if (b == 0) { return 0; }
    if (b == -1) { return 0 - a; }
    return a / b;
}

// quotient_u32
fn quotient_u32(a: u32, b: u32) -> u32 {
    if (b == 0u) { return 0u; }
    return a / b;
}

// remainder_i32
fn remainder_i32(a: i32, b: i32) -> i32 {
    if (b == 0 || b == -1) { return 0; }
    let rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) { return rest + b; }
    return rest;
}

// remainder_u32
fn remainder_u32(a: u32, b: u32) -> u32 {
    if (b == 0u) { return 0u; }
    return a % b;
}

// remainder_f32
fn remainder_f32(a: f32, b: f32) -> f32 {
    let rest = a % b;
    if (rest != 0.0 && (rest < 0.0) != (b < 0.0)) { return rest + b; }
    return rest;
}

// larger_f32
fn larger_f32(a: f32, b: f32) -> f32 {
    if (is_nan(a)) { return a; }
    if (is_nan(b)) { return b; }
    return max(a, b);
}

// smaller_f32
fn smaller_f32(a: f32, b: f32) -> f32 {
    if (is_nan(a)) { return a; }
    if (is_nan(b)) { return b; }
    return min(a, b);
}

// shift_left_i32
fn shift_left_i32(a: i32, distance: u32, width: u32) -> i32 {
    return select(0, a << (distance & 31u), distance < width);
}

// shift_left_u32
fn shift_left_u32(a: u32, distance: u32, width: u32) -> u32 {
    return select(0u, a << (distance & 31u), distance < width);
}

// shift_right_i32
fn shift_right_i32(a: i32, distance: u32, width: u32) -> i32 {
    return a >> min(distance, width - 1u);
}

// shift_right_u32
fn shift_right_u32(a: u32, distance: u32, width: u32) -> u32 {
    return select(0u, a >> (distance & 31u), distance < width);
}

// power_f32
fn power_f32(a: f32, b: f32) -> f32 {
    if (b == 0.0 || a == 1.0) { return 1.0; }
    if (is_nan(a) || is_nan(b)) { return a + b; }
    if (0.0 <= a) { return pow(a, b); }
    if (floor(b) != b) { return f32_of_bits(0x7fc00000u); }
    let size = pow(-a, b);
    return select(size, -size, abs(b) < 16777216.0 && floor(b * 0.5) != b * 0.5);
}

// tanh_f32
fn tanh_f32(x: f32) -> f32 {
    if (is_nan(x)) { return x; }
    return tanh(clamp(x, -15.0, 15.0));
}

// erf_f32
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

// philox high_word
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
