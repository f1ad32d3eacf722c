// Folds a layer norm into the linear layer that reads it, once, when weights are loaded:
// norm(x) W^T + bias = scale * (x W'^T - mean * column_sums) + bias', where W' = W gamma,
// column_sums = sum over k of W' as rounded, bias' = bias + sum over k of W beta.
//
// Macros: CALOR_TYPE 0 f32, 1 f16, 2 bf16 (W and W'); CALOR_K; CALOR_BIAS 0 none, 1 f32,
//   2 the type of W.
// Buffers: W [n, k], gamma f32 [k], beta f32 [k], [bias n], W' [n, k], column_sums f32 [n],
//   bias' f32 [n]. Words: n. Grid: x = ceil(n / 8). Block: 256, one warp a row.

#if CALOR_TYPE == 0
typedef float Element;
#else
typedef unsigned short Element;
#endif
#if CALOR_BIAS == 2
typedef Element Bias;
#else
typedef float Bias;
#endif

struct Words { long long w[1]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(unsigned short bits) {
#if CALOR_TYPE == 1
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    return __uint_as_float((unsigned)bits << 16);
#endif
}
__device__ inline Element narrow(float x) {
#if CALOR_TYPE == 0
    return x;
#elif CALOR_TYPE == 1
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#endif
}

__device__ inline float fold_warp(float x) {
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

extern "C" __global__ void __launch_bounds__(256) calor_pack_skinny(
    const Element* weights,
    const float* gamma,
    const float* beta,
#if CALOR_BIAS
    const Bias* bias,
#endif
    Element* folded,
    float* column_sums,
    float* folded_bias,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
    const long long n = live_word(words.w[0], rules.at[0], live);
    const long long row = blockIdx.x * 8ll + threadIdx.x / 32;
    const int lane = (int)(threadIdx.x % 32);
    if (n <= row) return;
    float sum = 0.0f;
    float shift = 0.0f;
    for (int k = lane; k < CALOR_K; k += 32) {
        const float w = widen(weights[row * CALOR_K + k]);
        const Element rounded = narrow(w * gamma[k]);
        folded[row * CALOR_K + k] = rounded;
        sum += widen(rounded);
        shift += w * beta[k];
    }
    sum = fold_warp(sum);
    shift = fold_warp(shift);
    if (lane == 0) {
        column_sums[row] = sum;
#if CALOR_BIAS
        shift += widen(bias[row]);
#endif
        folded_bias[row] = shift;
    }
}
