// Folds a norm into the linear layer that reads it, once, when weights are loaded:
// norm(x) W^T + bias = scale * (x W'^T - mean * sums) + bias', where W' = W gain rounded to the
// type of W, sums = sum over k of W' as rounded, bias' = bias + sum over k of W shift.
//
// Macros: CALOR_TYPE 1 f16, 2 bf16: W, bias and W'; CALOR_N, CALOR_K; CALOR_SHIFT 1: the norm has a
//   bias; CALOR_BIAS 1: the layer has one.
// Buffers: W [n, k], gain f32 [k], [shift f32 k], [bias n], then W' [n, k], sums f32 [n] and
//   bias' f32 [n] behind each other. Words: none.
// Grid: x = ceil(n / 8). Block: 256, one warp a row.

extern "C" __global__ void __launch_bounds__(256) calor_fold_norm(
    const Element* weights,
    const float* gain,
#if CALOR_SHIFT
    const float* shift,
#endif
#if CALOR_BIAS
    const Element* bias,
#endif
    Element* folded,
    const __grid_constant__ Words,
    const unsigned*,
    const __grid_constant__ Rules) {
    const long long row = blockIdx.x * 8ll + threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    if (CALOR_N <= row) return;
    float sum = 0.0f;
    float shifted = 0.0f;
    for (int k = lane; k < CALOR_K; k += 32) {
        const float w = value_of(weights[row * CALOR_K + k]);
        const Element rounded = element_of(w * gain[k]);
        folded[row * CALOR_K + k] = rounded;
        sum += value_of(rounded);
#if CALOR_SHIFT
        shifted += w * shift[k];
#endif
    }
    sum = fold_warp(sum);
    shifted = fold_warp(shifted);
    if (lane != 0) return;
    float* const sums = (float*)(folded + (long long)CALOR_N * CALOR_K);
    sums[row] = sum;
#if CALOR_BIAS
    shifted += value_of(bias[row]);
#endif
    sums[CALOR_N + row] = shifted;
}
