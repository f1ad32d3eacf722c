// C[m, n] = act(A[m, k] * W[n, k]^T + bias) + residual by `mma.sync`, on every tensor core.
//
// Macros
//   CALOR_TYPE       of A and W: 0 f32 multiplied as tf32, 1 f16, 2 bf16, and with scales
//                    3 s8, 4 e4m3 (from sm_89)
//   CALOR_OUT        of C, bias and residual: 0 f32, 1 f16, 2 bf16; equal to TYPE below 3
//   CALOR_N, CALOR_K columns of C and the length of a product; N a multiple of 8, K of 16 bytes
//   CALOR_ACT        0 none, 1 relu, 2 gelu (erf), 3 gelu (tanh), 4 quick gelu, 5 silu, 6 tanh
//   CALOR_BIAS       0 none, 1 of CALOR_OUT, 2 f32
//   CALOR_RESIDUAL   0 none, 1 added after the activation, 2 multiplied with
//   CALOR_WARPS_M, CALOR_WARPS_N   warps below and beside each other
//   CALOR_WARP_ROWS, CALOR_WARP_COLUMNS   part of one warp; multiples of 16
//   CALOR_STAGES     stages of 128 bytes of k; 2 on sm_75
//   CALOR_BAND       rows of tiles that are walked together, for the sake of L2
//   CALOR_PDL        1: programmatic dependent launch
// On sm_75 only TYPE 1; before sm_80 copies go through registers.
//
// Buffers: A, W [n, k], for s8 and e4m3 the f32 scales of A's rows and W's rows, [bias],
// [residual], C.
// Words: 0 rows m, 1 row stride of A, 2 of C, 3 of the residual, in elements. Bases and row
// strides of A and W are multiples of 16 bytes, those of C and the residual of 4 elements.
// Launch, with ROWS = WARPS_M * WARP_ROWS and COLUMNS = WARPS_N * WARP_COLUMNS:
//   32 * WARPS_M * WARPS_N threads, STAGES * (ROWS + COLUMNS) * 128 bytes of dynamic shared memory,
//   ceil(m / ROWS) * ceil(N / COLUMNS) blocks.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

#define OUT_TYPE CALOR_OUT
#if CALOR_TYPE < 3 && CALOR_TYPE != CALOR_OUT
#error "CALOR_OUT differs from CALOR_TYPE only for s8 and e4m3"
#endif
constexpr int ELEMENT_BYTES = CALOR_TYPE == 0 ? 4 : CALOR_TYPE < 3 ? 2 : 1;
constexpr int LINE_BYTES = 128;
constexpr int LINE = LINE_BYTES / ELEMENT_BYTES;
static_assert(CALOR_N % 8 == 0 && CALOR_K * ELEMENT_BYTES % 16 == 0, "odd extents need gemm_plain");
constexpr int ROWS = CALOR_WARPS_M * CALOR_WARP_ROWS, COLUMNS = CALOR_WARPS_N * CALOR_WARP_COLUMNS;
constexpr int THREADS = 32 * CALOR_WARPS_M * CALOR_WARPS_N;
constexpr int TILES_N = (CALOR_N + COLUMNS - 1) / COLUMNS;
constexpr int STEPS = (CALOR_K + LINE - 1) / LINE;
constexpr int A_BYTES = ROWS * LINE_BYTES, STAGE_BYTES = (ROWS + COLUMNS) * LINE_BYTES;
constexpr int LINES = THREADS / 8;
static_assert(ROWS % LINES == 0 && COLUMNS % LINES == 0, "threads share the lines evenly");
constexpr int BLOCKS_M = CALOR_WARP_ROWS / 16, BLOCKS_N = CALOR_WARP_COLUMNS / 8;

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

#if CALOR_TYPE == 3
typedef int Number;
#else
typedef float Number;
#endif

// Sixteen bytes into shared memory, zeros where there is nothing.
__device__ inline void copy_16(u32 to, const void* from, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
#else
    uint4 v = {0, 0, 0, 0};
    if (there) v = *(const uint4*)from;
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
#endif
}
__device__ inline void copies_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING>
__device__ inline void copies_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

__device__ inline void matrices_load(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// Sixteen rows times eight columns, 32 bytes of k.
__device__ inline void multiply(Number (&d)[4], const u32 (&a)[4], u32 w0, u32 w1) {
#define FACTORS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(w0), "r"(w1)
#define SHAPE_OF(shape, kinds)                                                                   \
    "mma.sync.aligned." shape ".row.col." kinds " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
    "{%0, %1, %2, %3};"
#if CALOR_TYPE == 0
    asm(SHAPE_OF("m16n8k8", "f32.tf32.tf32.f32")
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : FACTORS);
#elif CALOR_TYPE == 3
    asm(SHAPE_OF("m16n8k32", "s32.s8.s8.s32")
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : FACTORS);
#elif CALOR_TYPE == 4
    asm(SHAPE_OF("m16n8k32", "f32.e4m3.e4m3.f32")
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : FACTORS);
#elif CALOR_TYPE == 2
    asm(SHAPE_OF("m16n8k16", "f32.bf16.bf16.f32")
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : FACTORS);
#elif __CUDA_ARCH__ >= 800
    asm(SHAPE_OF("m16n8k16", "f32.f16.f16.f32")
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : FACTORS);
#else
    // The same fragments in two halves of k.
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(w0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2]), "r"(a[3]), "r"(w1));
#endif
}
__device__ inline void round_factors(u32 (&x)[4]) {
#if CALOR_TYPE == 0
#pragma unroll
    for (int i = 0; i < 4; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(x[i]) : "f"(__uint_as_float(x[i])));
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) calor_gemm_mma(
    const char* a, const char* weight,
#if CALOR_TYPE >= 3
    const float* row_scales, const float* column_scales,
#endif
#if CALOR_BIAS
    const Bias* bias,
#endif
#if CALOR_RESIDUAL
    const Out* residual,
#endif
    Out* c,
    const __grid_constant__ Words words, const unsigned* live, const __grid_constant__ Rules rules) {
    extern __shared__ unsigned char shared[];
    u32 base;
    asm("{\n.reg .u64 s;\ncvta.to.shared.u64 s, %1;\ncvt.u32.u64 %0, s;\n}" : "=r"(base) : "l"(shared));
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const int tiles_m = (m + ROWS - 1) / ROWS;
    if (tiles_m * TILES_N <= (int)blockIdx.x) return;
    const Tile tile = tile_at(blockIdx.x, tiles_m);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;

    // A line is eight pieces of 16 bytes; piece p of row r lies at place p ^ r % 8, so that eight
    // rows of one piece fall into all banks. A thread brings one piece of every THREADS / 8 rows.
    const int piece = thread % 8, own_row = thread / 8;
    const u32 place = base + own_row * LINE_BYTES + ((piece ^ own_row % 8) << 4);
    const long long a_stride = words.w[1] * ELEMENT_BYTES;
    const char* a_from = a + (tile.row + own_row) * a_stride + piece * 16;
    const char* w_from =
        weight + ((long long)(tile.column + own_row) * CALOR_K) * ELEMENT_BYTES + piece * 16;
    const int a_left = m - tile.row - own_row, w_left = CALOR_N - tile.column - own_row;
    int k_left = CALOR_K * ELEMENT_BYTES - piece * 16;
    u32 fill = 0;
    auto fetch = [&]() {
        const u32 to = place + fill;
#pragma unroll
        for (int i = 0; i < ROWS / LINES; ++i)
            copy_16(to + i * LINES * LINE_BYTES, a_from + i * LINES * a_stride,
                    i * LINES < a_left && 0 < k_left);
#pragma unroll
        for (int i = 0; i < COLUMNS / LINES; ++i)
            copy_16(to + A_BYTES + i * LINES * LINE_BYTES,
                    w_from + (long long)i * LINES * CALOR_K * ELEMENT_BYTES,
                    i * LINES < w_left && 0 < k_left);
        a_from += LINE_BYTES;
        w_from += LINE_BYTES;
        k_left -= LINE_BYTES;
        fill = fill == (CALOR_STAGES - 1) * STAGE_BYTES ? 0 : fill + STAGE_BYTES;
    };

    Number sums[BLOCKS_M][BLOCKS_N][4] = {};
    const int warp_row = warp % CALOR_WARPS_M * CALOR_WARP_ROWS;
    const int warp_column = warp / CALOR_WARPS_M * CALOR_WARP_COLUMNS;
    const int corner = lane / 8, line = lane % 8;
#pragma unroll
    for (int step = 0; step < CALOR_STAGES - 1; ++step) {
        if (step < STEPS) fetch();
        copies_commit();
    }
    u32 read = 0;
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        copies_wait<CALOR_STAGES - 2>();
        __syncthreads();
        // The stage that was read in the step before is free by now.
        if (step + CALOR_STAGES - 1 < STEPS) fetch();
        copies_commit();
        const u32 at = base + read;
        read = read == (CALOR_STAGES - 1) * STAGE_BYTES ? 0 : read + STAGE_BYTES;
#pragma unroll
        for (int part = 0; part < LINE_BYTES / 32; ++part) {
            u32 x[BLOCKS_M][4], y[BLOCKS_N / 2][4];
#pragma unroll
            for (int i = 0; i < BLOCKS_M; ++i) {
                const int row = warp_row + i * 16 + (corner & 1) * 8 + line;
                matrices_load(x[i], at + row * LINE_BYTES + ((part * 2 + (corner >> 1) ^ line) << 4));
                round_factors(x[i]);
            }
#pragma unroll
            for (int j = 0; j < BLOCKS_N / 2; ++j) {
                const int row = warp_column + j * 16 + (corner >> 1) * 8 + line;
                matrices_load(y[j], at + A_BYTES + row * LINE_BYTES + ((part * 2 + (corner & 1) ^ line) << 4));
                round_factors(y[j]);
            }
#pragma unroll
            for (int i = 0; i < BLOCKS_M; ++i)
#pragma unroll
                for (int j = 0; j < BLOCKS_N; ++j)
                    multiply(sums[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }

    // A lane has columns lane % 4 * 2 and the next of two neighbouring eights. Lanes of a pair
    // swap halves, so that each has four columns in a row and a quad fills whole sectors.
    struct alignas(sizeof(Out) * 4) Four { Out at[4]; };
    const bool odd = lane & 1;
#pragma unroll
    for (int i = 0; i < BLOCKS_M; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = tile.row + warp_row + i * 16 + half * 8 + lane / 4;
            const bool inside = row < m;
#if CALOR_TYPE >= 3
            const float row_scale = inside ? row_scales[row] : 0.0f;
#endif
#pragma unroll
            for (int j = 0; j < BLOCKS_N; j += 2) {
                float own[2][2];
#pragma unroll
                for (int e = 0; e < 2; ++e)
#pragma unroll
                    for (int f = 0; f < 2; ++f) own[e][f] = (float)sums[i][j + e][half * 2 + f];
                float x[4];
#pragma unroll
                for (int f = 0; f < 2; ++f) {
                    const float got = __shfl_xor_sync(0xffffffffu, odd ? own[0][f] : own[1][f], 1);
                    x[f] = odd ? got : own[0][f];
                    x[2 + f] = odd ? own[1][f] : got;
                }
                const int column = tile.column + warp_column + (j + odd) * 8 + lane % 4 / 2 * 4;
                if (!inside || CALOR_N <= column) continue;
                Four four;
#if CALOR_RESIDUAL
                const Four other = *(const Four*)(residual + row * words.w[3] + column);
#endif
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    float v = x[e];
#if CALOR_TYPE >= 3
                    v *= row_scale * column_scales[column + e];
#endif
#if CALOR_BIAS
                    v += shift_of(bias[column + e]);
#endif
                    v = act(v);
#if CALOR_RESIDUAL == 2
                    v *= value(other.at[e]);
#elif CALOR_RESIDUAL
                    v += value(other.at[e]);
#endif
                    four.at[e] = rounded(v);
                }
                *(Four*)(c + row * words.w[2] + column) = four;
            }
        }
}
