// C[m, n] = act(A[m, k] * W[n, k]^T + bias) + residual by f32 multiply-adds, for any n, k, strides
// and alignment. The form for f32 and for what the tensor cores' forms refuse.
//
// Macros
//   CALOR_TYPE       of A, W, C and the residual: 0 f32, 1 f16, 2 bf16; sums are f32
//   CALOR_N, CALOR_K columns of C and the length of a product; any
//   CALOR_ACT        0 none, 1 relu, 2 gelu (erf), 3 gelu (tanh), 4 quick gelu, 5 silu, 6 tanh
//   CALOR_BIAS       0 none, 1 of CALOR_TYPE, 2 f32
//   CALOR_RESIDUAL   0 none, 1 added after the activation, 2 multiplied with
//   CALOR_WARPS_M    warps below each other, 32 rows each: 1, 2 or 4
//   CALOR_WARPS_N    warps beside each other, 64 columns each: 1 or 2
//   CALOR_BAND       rows of tiles that are walked together, for the sake of L2
//   CALOR_PDL        1: programmatic dependent launch
//
// Buffers: A, W [n, k], [bias], [residual], C.
// Words: 0 rows m, 1 row stride of A, 2 of C, 3 of the residual, in elements.
// Launch: 32 * WARPS_M * WARPS_N threads, no dynamic shared memory,
//   ceil(m / (32 * WARPS_M)) * ceil(N / (64 * WARPS_N)) blocks.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

#define OUT_TYPE CALOR_TYPE
constexpr int ROWS = 32 * CALOR_WARPS_M, COLUMNS = 64 * CALOR_WARPS_N, DEPTH = 16;
constexpr int THREADS = 32 * CALOR_WARPS_M * CALOR_WARPS_N;
constexpr int TILES_N = (CALOR_N + COLUMNS - 1) / COLUMNS;
constexpr int STEPS = (CALOR_K + DEPTH - 1) / DEPTH;
// Quads of k that a thread brings of A and of W for one step.
constexpr int A_QUADS = ROWS * (DEPTH / 4) / THREADS, W_QUADS = COLUMNS * (DEPTH / 4) / THREADS;
static_assert(A_QUADS * THREADS == ROWS * (DEPTH / 4), "threads share the rows of A evenly");
static_assert(W_QUADS * THREADS == COLUMNS * (DEPTH / 4), "threads share the rows of W evenly");

struct Words { long long w[4]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[4]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

#if OUT_TYPE == 0
typedef float Out;
__device__ inline float value(Out x) { return x; }
__device__ inline Out rounded(float x) { return x; }
#else
typedef u16 Out;
#if OUT_TYPE == 1
__device__ inline float value(Out x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ inline Out rounded(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#else
__device__ inline float value(Out x) { return __uint_as_float((u32)x << 16); }
__device__ inline Out rounded(float x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#endif
#endif

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float act(float x) {
#if CALOR_ACT == 0
    return x;
#elif CALOR_ACT == 1
    return x < 0.0f ? 0.0f : x;
#elif CALOR_ACT == 2
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
#elif CALOR_ACT == 3
    return x * sigmoid(1.5957691216057308f * fmaf(0.044715f * x * x, x, x));
#elif CALOR_ACT == 4
    return x * sigmoid(1.702f * x);
#elif CALOR_ACT == 5
    return x * sigmoid(x);
#elif CALOR_ACT == 6
    return tanhf(x);
#else
#error "CALOR_ACT is 0 to 6"
#endif
}
#if CALOR_BIAS == 2
typedef float Bias;
__device__ inline float shift_of(float x) { return x; }
#elif CALOR_BIAS == 1
typedef Out Bias;
__device__ inline float shift_of(Out x) { return value(x); }
#endif

// Tile of this block: bands of BAND rows of tiles, down first and then across, so that the blocks
// at work at a time share few rows of A and few of W.
struct Tile { int row, column; };
__device__ inline Tile tile_at(int turn, int tiles_m) {
    const int band = turn / (CALOR_BAND * TILES_N);
    const int in_band = turn - band * (CALOR_BAND * TILES_N);
    const int left = tiles_m - band * CALOR_BAND;
    const int height = left < CALOR_BAND ? left : CALOR_BAND;
    const int across = in_band / height;
    return Tile{(band * CALOR_BAND + in_band - across * height) * ROWS, across * COLUMNS};
}

struct alignas(sizeof(Out) * 4) Four { Out at[4]; };

// Four elements of row `row` from column `k` on, zeros outside.
__device__ inline float4 quad_load(const Out* from, long long stride, int row, int rows, int k,
                                   bool aligned) {
    float4 quad = {0.0f, 0.0f, 0.0f, 0.0f};
    if (row < rows) {
        const Out* at = from + row * stride + k;
        if (aligned) {
            if (k < CALOR_K) {
                const Four four = *(const Four*)at;
                quad = float4{value(four.at[0]), value(four.at[1]), value(four.at[2]), value(four.at[3])};
            }
        } else {
            if (k + 0 < CALOR_K) quad.x = value(at[0]);
            if (k + 1 < CALOR_K) quad.y = value(at[1]);
            if (k + 2 < CALOR_K) quad.z = value(at[2]);
            if (k + 3 < CALOR_K) quad.w = value(at[3]);
        }
    }
    return quad;
}

template <int WIDTH>
__device__ inline void quad_put(float (&to)[DEPTH][WIDTH + 4], int row, int k, float4 quad) {
    to[k + 0][row] = quad.x;
    to[k + 1][row] = quad.y;
    to[k + 2][row] = quad.z;
    to[k + 3][row] = quad.w;
}

extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) calor_gemm_plain(
    const Out* a, const Out* weight,
#if CALOR_BIAS
    const Bias* bias,
#endif
#if CALOR_RESIDUAL
    const Out* residual,
#endif
    Out* c, const __grid_constant__ Words words, const unsigned* live,
    const __grid_constant__ Rules rules) {
    __shared__ alignas(16) float a_parts[2][DEPTH][ROWS + 4];
    __shared__ alignas(16) float w_parts[2][DEPTH][COLUMNS + 4];
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const int tiles_m = (m + ROWS - 1) / ROWS;
    if (tiles_m * TILES_N <= (int)blockIdx.x) return;
    const Tile tile = tile_at(blockIdx.x, tiles_m);

    const bool aligned = CALOR_K % 4 == 0 && words.w[1] % 4 == 0 && (u64)a % sizeof(Four) == 0 &&
                         (u64)weight % sizeof(Four) == 0;
    const int thread = threadIdx.x;
    float4 a_next[A_QUADS], w_next[W_QUADS];
    // Quads of k are dealt to neighbouring threads so that their stores fall into all banks.
    auto fetch = [&](int k0) {
#pragma unroll
        for (int i = 0; i < A_QUADS; ++i) {
            const int quad = thread + i * THREADS;
            a_next[i] = quad_load(a, words.w[1], tile.row + quad / 4, m, k0 + quad % 4 * 4, aligned);
        }
#pragma unroll
        for (int i = 0; i < W_QUADS; ++i) {
            const int quad = thread + i * THREADS;
            w_next[i] =
                quad_load(weight, CALOR_K, tile.column + quad / 4, CALOR_N, k0 + quad % 4 * 4, aligned);
        }
    };
    auto put = [&](int half) {
#pragma unroll
        for (int i = 0; i < A_QUADS; ++i) {
            const int quad = thread + i * THREADS;
            quad_put<ROWS>(a_parts[half], quad / 4, quad % 4 * 4, a_next[i]);
        }
#pragma unroll
        for (int i = 0; i < W_QUADS; ++i) {
            const int quad = thread + i * THREADS;
            quad_put<COLUMNS>(w_parts[half], quad / 4, quad % 4 * 4, w_next[i]);
        }
    };

    const int warp = thread / 32, lane = thread % 32;
    const int row0 = warp % CALOR_WARPS_M * 32 + lane / 8 * 4;
    const int column0 = warp / CALOR_WARPS_M * 64 + lane % 8 * 4;
    float sums[8][8] = {};
    fetch(0);
    put(0);
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        const int half = step & 1;
        if (step + 1 < STEPS) fetch((step + 1) * DEPTH);
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            float x[8], y[8];
            *(float4*)&x[0] = *(const float4*)&a_parts[half][k][row0];
            *(float4*)&x[4] = *(const float4*)&a_parts[half][k][row0 + 16];
            *(float4*)&y[0] = *(const float4*)&w_parts[half][k][column0];
            *(float4*)&y[4] = *(const float4*)&w_parts[half][k][column0 + 32];
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
        if (step + 1 < STEPS) put(half ^ 1);
        __syncthreads();
    }

    const bool wide = CALOR_N % 4 == 0 && words.w[2] % 4 == 0 && (u64)c % sizeof(Four) == 0
#if CALOR_RESIDUAL
                      && words.w[3] % 4 == 0 && (u64)residual % sizeof(Four) == 0
#endif
        ;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int row = tile.row + row0 + i % 4 + i / 4 * 16;
        if (m <= row) continue;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int column = tile.column + column0 + part * 32;
            Four four;
#if CALOR_RESIDUAL
            Four other = {};
            if (wide && column < CALOR_N) {
                other = *(const Four*)(residual + row * words.w[3] + column);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (column + j < CALOR_N) other.at[j] = residual[row * words.w[3] + column + j];
            }
#endif
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                float x = sums[i][part * 4 + j];
#if CALOR_BIAS
                if (column + j < CALOR_N) x += shift_of(bias[column + j]);
#endif
                x = act(x);
#if CALOR_RESIDUAL == 2
                x *= value(other.at[j]);
#elif CALOR_RESIDUAL
                x += value(other.at[j]);
#endif
                four.at[j] = rounded(x);
            }
            Out* to = c + row * words.w[2] + column;
            if (wide) {
                if (column < CALOR_N) *(Four*)to = four;
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (column + j < CALOR_N) to[j] = four.at[j];
            }
        }
    }
}
