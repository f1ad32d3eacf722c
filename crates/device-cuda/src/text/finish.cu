// What a product of the library leaves to do: activation, then residual, in place.
//
// CALOR_ACTIVATION: 0 none, 1 relu, 2 gelu (erf), 3 gelu (tanh), 4 quick gelu, 5 silu, 6 tanh.
// CALOR_RESIDUAL: whether rows are added. CALOR_N: columns.
// Buffers: rows, residual if any. Words: rows, stride of rows, stride of residual rows.
// A block of 256 threads does four elements each; blocks stride over what is left.

__device__ inline float activate(float x) {
#if CALOR_ACTIVATION == 0
    return x;
#elif CALOR_ACTIVATION == 1
    return x < 0.0f ? 0.0f : x;
#elif CALOR_ACTIVATION == 2
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
#elif CALOR_ACTIVATION == 3
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
#elif CALOR_ACTIVATION == 4
    return x / (1.0f + expf(-1.702f * x));
#elif CALOR_ACTIVATION == 5
    return x / (1.0f + expf(-x));
#else
    return tanhf(x);
#endif
}

#if CALOR_N % 4 == 0
#define WIDTH 4
#else
#define WIDTH 1
#endif

extern "C" __global__ void __launch_bounds__(256) calor_finish(
    Element* rows,
#if CALOR_RESIDUAL
    const Element* residual,
#endif
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
    const long long row_count = live_word(words.w[0], rules.at[0], live);
    const int per_row = CALOR_N / WIDTH;
    const long long all = row_count * per_row;
    const long long step = (long long)gridDim.x * 256;
    for (long long item = blockIdx.x * 256ll + threadIdx.x; item < all; item += step) {
        const long long row = item / per_row;
        const int col = (int)(item - row * per_row) * WIDTH;
        Element* place = rows + row * words.w[1] + col;
        typedef Pack<Element, WIDTH> Part;
        Part part = *(const Part*)place;
#if CALOR_RESIDUAL
        Part more;
        const Element* from = residual + row * words.w[2] + col;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) more.at[i] = from[i];
#endif
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            float x = activate(value_of(part.at[i]));
#if CALOR_RESIDUAL
            x += value_of(more.at[i]);
#endif
            part.at[i] = element_of(x);
        }
        *(Part*)place = part;
    }
}
