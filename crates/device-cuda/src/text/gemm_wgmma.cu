// C[m, n] = act(A[m, k] * W[n, k]^T + bias) + residual on Hopper's warpgroup products.
//
// One producer warp fills a ring of shared-memory stages by tensor copies; one or two groups of
// four warps multiply. Blocks are persistent and walk over the tiles. With ALTERNATE the groups
// take whole tiles in turn, so that one group's epilogue hides behind the other's products.
//
// Macros
//   CALOR_TYPE       1 f16, 2 bf16, 4 e4m3 (C, bias and residual are then bf16)
//   CALOR_N, CALOR_K columns of C and the length of a product; multiples of 8 (K of 16 for e4m3)
//   CALOR_ACT        0 none, 1 relu, 2 gelu (erf), 3 gelu (tanh), 4 quick gelu, 5 silu, 6 tanh
//   CALOR_BIAS       0 none, 1 of the type of C, 2 f32
//   CALOR_RESIDUAL   0 none, 1 added after the activation, 2 multiplied with
//   CALOR_ROWS       rows of one group's part of a tile: 64 or 128
//   CALOR_COLUMNS    columns of a tile: 64, 128, 192 or 256; ROWS * COLUMNS at most 128 * 192
//   CALOR_GROUPS     groups that multiply: 1 or 2
//   CALOR_ALTERNATE  0: the groups share a tile of ROWS * GROUPS rows; 1: each has its own of ROWS
//   CALOR_STAGES     stages of the ring, at least 2
//   CALOR_OUTS       staging pieces of 64 columns that each group has: 1 to COLUMNS / 64, and at
//                    least 2 with a residual (COLUMNS / 64 with a residual and SPLIT above 1)
//   CALOR_CLUSTER_M  1 or 2: blocks of a cluster below each other, which share W
//   CALOR_CLUSTER_N  1 or 2: blocks of a cluster beside each other, which share A
//   CALOR_SPLIT      blocks of a cluster that share the length k of one tile: 1 to 8. Above 1:
//                    clusters of M and N are 1, GROUPS 1, ALTERNATE 0; the blocks are not
//                    persistent: SPLIT for every tile
//   CALOR_BAND       rows of cluster tiles that are walked together, for the sake of L2
//   CALOR_PDL        1: programmatic dependent launch
//
// Buffers: A, W, for e4m3 the f32 scales of A's rows and W's rows, [bias], [residual], C.
// Words: 0 rows m, 1 row stride of A, 2 of C, 3 of the residual, in elements.
// Tensor maps, after the rules: A, W, C, [residual]; all of rank 2, no interleave, zeros outside,
// swizzle of 128 bytes, element strides 1, L2 promotion of 256 bytes (A, W):
//   A         extent {K, m}, row stride of A in bytes, box {LINE, TILE_ROWS / CLUSTER_N}
//   W         extent {K, N}, row stride K elements,    box {LINE, COLUMNS / CLUSTER_M}
//   C, resid. extent {N, m}, row strides in bytes,     box {64, ROWS}
// with LINE = 64 elements (128 of e4m3) and TILE_ROWS = ROWS * (ALTERNATE ? 1 : GROUPS).
// The extents are the fixed words; bases and row strides must be multiples of 16 bytes.
//
// Launch: 128 * (GROUPS + 1) threads; cluster CLUSTER_M * CLUSTER_N (compiled in);
//   clusters = ceil(ceil(m / TILE_ROWS) / CLUSTER_M) * ceil(ceil(N / COLUMNS) / CLUSTER_N)
//   blocks = min(clusters, multiprocessors / (CLUSTER_M * CLUSTER_N)) * CLUSTER_M * CLUSTER_N
//   (SPLIT above 1: blocks = clusters * SPLIT)
//   (ALTERNATE halves the first bound, rounded up, without changing the result)
//   shared bytes = 1024 + STAGES * (TILE_ROWS + COLUMNS) * 128
//                + GROUPS * OUTS * ROWS * 128 + (ALTERNATE ? 4 : 2) * COLUMNS * (bytes of a bias)
//                + 16 * (STAGES + 2 * OUTS)

#if CALOR_TYPE != 1 && CALOR_TYPE != 2 && CALOR_TYPE != 4
#error "CALOR_TYPE is 1 (f16), 2 (bf16) or 4 (e4m3)"
#endif
#if CALOR_COLUMNS % 64 != 0 || CALOR_COLUMNS > 256
#error "CALOR_COLUMNS is 64, 128, 192 or 256"
#endif
#if CALOR_N % 8 != 0 || CALOR_K % 8 != 0
#error "CALOR_N and CALOR_K are multiples of 8"
#endif
#if CALOR_ROWS * CALOR_COLUMNS > 128 * 192
#error "a group holds at most 128 * 192 sums"
#endif
#if CALOR_SPLIT > 1 && (CALOR_CLUSTER_M * CALOR_CLUSTER_N * CALOR_GROUPS != 1 || CALOR_ALTERNATE)
#error "a split tile has one group and no other cluster"
#endif
#if CALOR_TYPE == 4 && CALOR_K % 16 != 0
#error "rows of e4m3 are multiples of 16 bytes"
#endif
// The warp that brings the residual must reach the cluster's barrier before any piece is gone.
#if CALOR_SPLIT > 1 && CALOR_RESIDUAL && CALOR_OUTS * 64 < CALOR_COLUMNS
#error "a split tile with a residual stages all its columns"
#endif
#if CALOR_RESIDUAL && CALOR_OUTS < 2
#error "a residual needs two staging pieces"
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

constexpr int LINE_BYTES = 128;
constexpr int ELEMENT_BYTES = CALOR_TYPE == 4 ? 1 : 2;
constexpr int LINE = LINE_BYTES / ELEMENT_BYTES;
constexpr int SPLIT = CALOR_ALTERNATE ? 1 : CALOR_GROUPS;
constexpr int TILE_ROWS = CALOR_ROWS * SPLIT;
constexpr int ALL_STEPS = (CALOR_K + LINE - 1) / LINE;
// Steps of one block; the last block of a split tile may run past the end, where all is zero.
constexpr int STEPS = (ALL_STEPS + CALOR_SPLIT - 1) / CALOR_SPLIT;
constexpr int BLOCKS_OF_ROWS = CALOR_ROWS / 64;
constexpr int CHUNKS = CALOR_COLUMNS / 64;
constexpr int CLUSTER = CALOR_CLUSTER_M * CALOR_CLUSTER_N;
constexpr int BLOCKS = CLUSTER * CALOR_SPLIT;
constexpr int A_BYTES = TILE_ROWS * LINE_BYTES;
constexpr int W_BYTES = CALOR_COLUMNS * LINE_BYTES;
constexpr int STAGE_BYTES = A_BYTES + W_BYTES;
constexpr int OUT_BYTES = CALOR_ROWS * 128;
// A round of the ring must not outrun a tile, or the bias of a tile would be overwritten early.
constexpr int STAGES = CALOR_STAGES < STEPS ? CALOR_STAGES : STEPS;
static_assert(CALOR_SPLIT == 1 || CALOR_ROWS * CALOR_COLUMNS * 4 <= STAGES * STAGE_BYTES,
              "the sums of a split tile lie in its ring");
constexpr int BIAS_BYTES = CALOR_BIAS == 0 ? 0 : CALOR_BIAS == 1 ? 2 : 4;
constexpr int BIASES = CALOR_ALTERNATE ? 4 : 2;
constexpr int TILES_N = (CALOR_N + CALOR_COLUMNS - 1) / CALOR_COLUMNS;
constexpr int CLUSTERS_N = (TILES_N + CALOR_CLUSTER_N - 1) / CALOR_CLUSTER_N;
// The last tile across multiplies only as many columns as it has, rounded up to 64. Such tiles
// come after all others, where their small size evens out the blocks.
constexpr int TAIL = (CALOR_N % CALOR_COLUMNS + 63) / 64 * 64 % CALOR_COLUMNS;
constexpr bool SHORT = TAIL != 0 && CALOR_CLUSTER_N == 1;
constexpr int FULL_N = SHORT ? CLUSTERS_N - 1 : CLUSTERS_N;
constexpr bool TURNS = CALOR_ALTERNATE && CALOR_GROUPS == 2;
constexpr int SKEW = STAGES < 3 ? 0 : STAGES - 2;
constexpr bool SKEWED = !CALOR_ALTERNATE && CALOR_GROUPS == 2 && 0 < SKEW;
constexpr int THREADS = 128 * (CALOR_GROUPS + 1);
// Warps that must have let go of a stage before it is filled again: those of this block and of
// the blocks that receive the same copies.
constexpr int READERS = 4 * SPLIT * CLUSTER;

struct Words { long long w[4]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[4]; };
struct alignas(64) TensorMap { u64 opaque[16]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

// Barriers in shared memory.

__device__ inline void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
__device__ inline void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}
__device__ inline void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_arrive_at(u32 barrier, u32 block) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier), "r"(block)
        : "memory");
}
__device__ inline void group_sync(int group) {
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}
// The groups that alternate take turns at the ring. A group that waited for a stage some rounds
// ahead would take an earlier round of the same parity for its own.
__device__ inline void turn_wait(int group) {
    asm volatile("bar.sync %0, 256;" ::"r"(group + 3) : "memory");
}
__device__ inline void turn_give(int group) {
    asm volatile("bar.arrive %0, 256;" ::"r"(group + 3) : "memory");
}
__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ inline u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Tensor copies.

__device__ inline void tile_load(u32 to, const TensorMap& map, int column, int row, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}
__device__ inline void tile_load_shared(u32 to, const TensorMap& map, int column, int row,
                                        u32 barrier, u16 blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(&map), "r"(column),
        "r"(row), "r"(barrier), "h"(blocks)
        : "memory");
}
__device__ inline void line_load(u32 to, const void* from, int bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}
__device__ inline void tile_store(const TensorMap& map, int column, int row, u32 from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::
                     "l"(&map), "r"(column), "r"(row), "r"(from)
                 : "memory");
}

// Products of a group: 64 rows times COLUMNS, 32 bytes of k.

#define SUMS_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), \
    "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)
#define NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_32 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_64 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES_96 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#if CALOR_TYPE == 1
#define KINDS "k16.f32.f16.f16"
#define SIGNS "1, 1, 0, 0"
#elif CALOR_TYPE == 2
#define KINDS "k16.f32.bf16.bf16"
#define SIGNS "1, 1, 0, 0"
#else
#define KINDS "k32.f32.e4m3.e4m3"
#define SIGNS "1, 1"
#endif

template <int COLUMNS>
struct Width {};
#define MULTIPLY(columns, names, arguments, predicate, ...)                                        \
    __device__ inline void multiply(Width<columns>, float (&d)[CALOR_COLUMNS / 2], u64 a, u64 w,   \
                                    u32 add) {                                                     \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " predicate ", 0;\n"                        \
                     "wgmma.mma_async.sync.aligned.m64n" #columns KINDS " {" names "}, " arguments \
                     ", p, " SIGNS ";\n}"                                                          \
                     : __VA_ARGS__                                                                 \
                     : "l"(a), "l"(w), "r"(add));                                                  \
    }
MULTIPLY(64, NAMES_0, "%32, %33", "%34", SUMS_32(0))
#if 64 < CALOR_COLUMNS
MULTIPLY(128, NAMES_0 ", " NAMES_32, "%64, %65", "%66", SUMS_32(0), SUMS_32(32))
#endif
#if 128 < CALOR_COLUMNS
MULTIPLY(192, NAMES_0 ", " NAMES_32 ", " NAMES_64, "%96, %97", "%98", SUMS_32(0), SUMS_32(32),
         SUMS_32(64))
#endif
#if 192 < CALOR_COLUMNS
MULTIPLY(256, NAMES_0 ", " NAMES_32 ", " NAMES_64 ", " NAMES_96, "%128, %129", "%130", SUMS_32(0),
         SUMS_32(32), SUMS_32(64), SUMS_32(96))
#endif
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int PENDING>
__device__ inline void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Rows of 128 bytes, swizzled in atoms of eight rows.
__device__ inline u64 descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// Where a group stands in the ring.
struct Ring {
    u32 base, full, empty;
    int stage, last;
    u32 phase;
};

// All products of a tile but the end of the last step's. One loop for each width: a choice inside
// would make the compiler wait for every product.
template <int COLUMNS>
__device__ inline void tile_products(Width<COLUMNS> width,
                                     float (&sums)[BLOCKS_OF_ROWS][CALOR_COLUMNS / 2], Ring& ring,
                                     int group, int lane, bool leader, bool opening, u32& oldest) {
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        barrier_wait(ring.full + 8 * ring.stage, ring.phase);
        const u64 a0 = descriptor(ring.base + ring.stage * STAGE_BYTES +
                                  (CALOR_ALTERNATE ? 0 : group * CALOR_ROWS * LINE_BYTES));
        const u64 w0 = descriptor(ring.base + ring.stage * STAGE_BYTES + A_BYTES);
        products_begin();
#pragma unroll
        for (int part = 0; part < LINE_BYTES / 32; ++part)
#pragma unroll
            for (int r = 0; r < BLOCKS_OF_ROWS; ++r)
                multiply(width, sums[r], a0 + (r * 64 * LINE_BYTES + part * 32) / 16,
                         w0 + part * 2, step + part != 0);
        products_commit();
        if (0 < step) {
            // The products of the step before are done: its ring.stage may be filled again.
            products_wait<1>();
            if (CLUSTER == 1 ? lane == 0 : lane < CLUSTER) {
                if (CLUSTER == 1) barrier_arrive(ring.empty + 8 * ring.last);
                else barrier_arrive_at(ring.empty + 8 * ring.last, lane);
            }
        }
#if CALOR_RESIDUAL
        // By now the ring.last store of the tile before has read its staging piece.
        if (step == (STEPS > 1) && leader && oldest) {
            asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
            barrier_arrive(oldest);
            oldest = 0;
        }
#endif
        // The second group starts late and stays so: its products fill the time of the
        // first group's epilogue, as far as the ring reaches.
        if (SKEWED && group == 0 && opening && step == SKEW) turn_give(1);
        ring.last = ring.stage;
        if (++ring.stage == STAGES) ring.stage = 0, ring.phase ^= 1;
    }
}

// Values of C.

#if CALOR_TYPE == 1
__device__ inline u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
__device__ inline float2 unpack(u32 both) {
    float2 x;
    asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}"
        : "=f"(x.x), "=f"(x.y)
        : "r"(both));
    return x;
}
#else
__device__ inline u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
__device__ inline float2 unpack(u32 both) {
    return float2{__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
}
#endif

#if CALOR_BIAS
__device__ inline float2 shift_at(u32 shifts, int column) {
#if CALOR_BIAS == 1
    u32 both;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(both) : "r"(shifts + column * 2));
    return unpack(both);
#else
    float2 x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(shifts + column * 4));
    return x;
#endif
}
#endif

__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float sigmoid(float x) {
    return reciprocal(1.0f + exp2_fast(-1.4426950408889634f * x));
}
__device__ inline float tanh_of(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }
// x times the normal distribution function, without branches. As a polynomial in x * x for f16:
// absolute error below 2e-6 at |x| < 8.
__device__ inline float gelu(float x) {
#if CALOR_TYPE == 1
    const float y = fminf(fmaxf(x, -5.0f), 5.0f);
    const float t = fmaf(y * y, 0.08f, -1.0f);
    float p = 7.059529889e-04f;
    p = fmaf(p, t, -1.674031024e-03f);
    p = fmaf(p, t, 1.462631626e-03f);
    p = fmaf(p, t, -2.534322441e-03f);
    p = fmaf(p, t, 6.667809095e-03f);
    p = fmaf(p, t, -1.129974332e-02f);
    p = fmaf(p, t, 1.628706977e-02f);
    p = fmaf(p, t, -2.321634442e-02f);
    p = fmaf(p, t, 3.146487102e-02f);
    p = fmaf(p, t, -4.045071080e-02f);
    p = fmaf(p, t, 5.151894316e-02f);
    p = fmaf(p, t, -7.029593736e-02f);
    p = fmaf(p, t, 1.413637996e-01f);
    return x * fmaf(y, p, 0.5f);
#else
    // The logit of the distribution function over x, in units of log 2: relative error below
    // 1.7e-3 above -3.5 and absolute error below 6e-5, less than rounding to bf16.
    const float u = fminf(x * x, 40.0f);
    const float p = fmaf(fmaf(u, 1.121181845e-03f, -1.074914556e-01f), u, -2.300486337f);
    return x * reciprocal(1.0f + exp2_fast(x * p));
#endif
}
__device__ inline float act(float x) {
#if CALOR_ACT == 0
    return x;
#elif CALOR_ACT == 1
    return x < 0.0f ? 0.0f : x;
#elif CALOR_ACT == 2
    return gelu(x);
#elif CALOR_ACT == 3
    return x * sigmoid(1.5957691216057308f * fmaf(0.044715f * x * x, x, x));
#elif CALOR_ACT == 4
    return x * sigmoid(1.702f * x);
#elif CALOR_ACT == 5
    return x * sigmoid(x);
#elif CALOR_ACT == 6
    return tanh_of(x);
#else
#error "CALOR_ACT is 0 to 6"
#endif
}

struct Tile { int row, column; };

// Tile of this block in the cluster's turn: bands of BAND rows, down first and then across, so
// that the blocks at work at a time share few rows of A and few of W.
__device__ inline Tile tile_at(int turn, int clusters_m, int rank_m, int rank_n) {
    int across = FULL_N, down = turn - clusters_m * FULL_N;
    if (down < 0) {
        const int band = turn / (CALOR_BAND * FULL_N + (FULL_N == 0));
        const int in_band = turn - band * (CALOR_BAND * FULL_N);
        const int left = clusters_m - band * CALOR_BAND;
        const int height = left < CALOR_BAND ? left : CALOR_BAND;
        across = in_band / height;
        down = band * CALOR_BAND + in_band - across * height;
    }
    return Tile{(down * CALOR_CLUSTER_M + rank_m) * TILE_ROWS,
                (across * CALOR_CLUSTER_N + rank_n) * CALOR_COLUMNS};
}

extern "C" __global__ void
#if CALOR_CLUSTER_M * CALOR_CLUSTER_N * CALOR_SPLIT > 1
__cluster_dims__(BLOCKS, 1, 1)
#endif
__launch_bounds__(THREADS, 1) calor_gemm_wgmma(
    const void* a, const void* weight,
#if CALOR_TYPE == 4
    const float* row_scales, const float* column_scales,
#endif
#if CALOR_BIAS
    const void* bias,
#endif
#if CALOR_RESIDUAL
    const void* residual,
#endif
    u16* c,
    const __grid_constant__ Words words, const unsigned* live, const __grid_constant__ Rules rules,
    const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_w,
    const __grid_constant__ TensorMap map_c
#if CALOR_RESIDUAL
    , const __grid_constant__ TensorMap map_residual
#endif
) {
    extern __shared__ unsigned char shared[];
    u32 base;
    asm("{\n.reg .u64 s;\ncvta.to.shared.u64 s, %1;\ncvt.u32.u64 %0, s;\n}" : "=r"(base) : "l"(shared));
    // Swizzled rows repeat every 1024 bytes. All blocks of a cluster round alike.
    base = (base + 1023) & ~1023u;
    const u32 outs = base + STAGES * STAGE_BYTES;
    const u32 biases = outs + CALOR_GROUPS * CALOR_OUTS * OUT_BYTES;
    const u32 full = biases + BIASES * CALOR_COLUMNS * BIAS_BYTES;
    const u32 empty = full + 8 * STAGES;
    // For every staging piece: its residual has come, and what it held has gone out.
    const u32 arrived = empty + 8 * STAGES;
    [[maybe_unused]] const u32 gone = arrived + 8 * CALOR_GROUPS * CALOR_OUTS;

    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32 % 4, 0);
    const int lane = threadIdx.x % 32;
    const u32 rank = BLOCKS == 1 ? 0 : cluster_rank();
    const int rank_m = CLUSTER == 1 ? 0 : rank / CALOR_CLUSTER_N;
    const int rank_n = CALOR_CLUSTER_N == 1 ? 0 : rank % CALOR_CLUSTER_N;

    if (threadIdx.x == 32) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(&map_a) : "memory");
        asm volatile("prefetch.tensormap [%0];" ::"l"(&map_w) : "memory");
        asm volatile("prefetch.tensormap [%0];" ::"l"(&map_c) : "memory");
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, READERS);
        }
        for (int i = 0; i < 2 * CALOR_GROUPS * CALOR_OUTS; ++i) barrier_init(arrived + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
    }
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;");
    // Weights are nobody's output: bring this block's share of them nearer while the kernel before
    // finishes.
    {
        const u64 weight_bytes = (u64)CALOR_N * CALOR_K * ELEMENT_BYTES;
        const u64 part = (weight_bytes / gridDim.x + 4095) / 4096 * 4096;
        for (u64 at = blockIdx.x * part + threadIdx.x * 4096ull;
             at < (blockIdx.x + 1) * part && at + 4096 <= weight_bytes; at += THREADS * 4096ull)
            asm volatile("cp.async.bulk.prefetch.L2.global [%0], 4096;" ::"l"((const char*)weight + at));
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const int tiles_m = (m + TILE_ROWS - 1) / TILE_ROWS;
    const int clusters_m = (tiles_m + CALOR_CLUSTER_M - 1) / CALOR_CLUSTER_M;
    const int turns = clusters_m * CLUSTERS_N;
    const int first = blockIdx.x / BLOCKS, stride = gridDim.x / BLOCKS;
    const int step0 = CALOR_SPLIT == 1 ? 0 : rank * STEPS;

    __syncthreads();
    if (BLOCKS > 1) cluster_sync();

    if (group == CALOR_GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(24));
        if (warp == 0 && lane == 0) {
            int stage = 0;
            u32 phase = 1;
#if CALOR_BIAS
            int bias_at = 0;
#endif
            for (int turn = first; turn < turns; turn += stride) {
                const Tile tile = tile_at(turn, clusters_m, rank_m, rank_n);
#pragma unroll 1
                for (int step = 0; step < STEPS; ++step) {
                    barrier_wait(empty + 8 * stage, phase);
                    const u32 ready = full + 8 * stage;
                    const u32 to_a = base + stage * STAGE_BYTES, to_w = to_a + A_BYTES;
#if CALOR_BIAS
                    if (step == 0) {
                        const int left = CALOR_N - tile.column;
                        const int columns = left < CALOR_COLUMNS ? left : CALOR_COLUMNS;
                        const int bytes = columns < 0 ? 0 : columns * BIAS_BYTES;
                        barrier_expect(ready, STAGE_BYTES + bytes);
                        if (bytes)
                            line_load(biases + bias_at * CALOR_COLUMNS * BIAS_BYTES,
                                      (const char*)bias + tile.column * BIAS_BYTES, bytes, ready);
                        if (++bias_at == BIASES) bias_at = 0;
                    } else
#endif
                        barrier_expect(ready, STAGE_BYTES);
#if CALOR_CLUSTER_N == 1
                    tile_load(to_a, map_a, (step0 + step) * LINE, tile.row, ready);
#else
                    // Each of the blocks beside each other brings a part of A to all of them.
                    constexpr int PART = TILE_ROWS / CALOR_CLUSTER_N;
                    tile_load_shared(to_a + rank_n * PART * LINE_BYTES, map_a, (step0 + step) * LINE,
                                     tile.row + rank_n * PART, ready,
                                     (u16)(((1 << CALOR_CLUSTER_N) - 1) << (rank_m * CALOR_CLUSTER_N)));
#endif
#if CALOR_CLUSTER_M == 1
                    tile_load(to_w, map_w, (step0 + step) * LINE, tile.column, ready);
#else
                    constexpr int SLICE = CALOR_COLUMNS / CALOR_CLUSTER_M;
                    u16 below = 0;
                    for (int i = 0; i < CALOR_CLUSTER_M; ++i)
                        below |= (u16)(1 << (i * CALOR_CLUSTER_N + rank_n));
                    tile_load_shared(to_w + rank_m * SLICE * LINE_BYTES, map_w, (step0 + step) * LINE,
                                     tile.column + rank_m * SLICE, ready, below);
#endif
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
#if CALOR_RESIDUAL
        if (warp == 1 && lane == 0 && (CALOR_SPLIT == 1 || rank == 0)) {
            // Pieces that a group has been given so far; the same count that the group keeps.
            int given[2] = {0, 0};
            int owner = 0;
            for (int turn = first; turn < turns; turn += stride) {
                const Tile tile = tile_at(turn, clusters_m, rank_m, rank_n);
                for (int piece = 0; piece < CHUNKS; ++piece)
                    for (int g = CALOR_ALTERNATE ? owner : 0;
                         g < (CALOR_ALTERNATE ? owner + 1 : CALOR_GROUPS); ++g) {
                        const int row0 = tile.row + (CALOR_ALTERNATE ? 0 : g * CALOR_ROWS);
                        if (m <= row0 || CALOR_N <= tile.column) continue;
                        const int column = tile.column + piece * 64;
                        if (CALOR_N <= column) continue;
                        const int count = g ? given[1]++ : given[0]++;
                        const int slot = g * CALOR_OUTS + count % CALOR_OUTS;
                        const int use = count / CALOR_OUTS;
                        if (0 < use) barrier_wait(gone + 8 * slot, (use - 1) & 1);
                        barrier_expect(arrived + 8 * slot, OUT_BYTES);
                        tile_load(outs + slot * OUT_BYTES, map_residual, column, row0,
                                  arrived + 8 * slot);
                    }
                if (TURNS) owner ^= 1;
            }
        }
#endif
        if (CALOR_SPLIT > 1 && first < turns) {
            __syncwarp();
            cluster_sync();
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(240));
        const bool leader = threadIdx.x % 128 == 0;
        // Pieces of C that this group has put out so far.
        int given = 0;
        // The barrier of the last piece put out, while it is not known to be gone.
        u32 oldest = 0;
        int bias_at = CALOR_ALTERNATE ? group : 0;
        Ring ring = {base, full, empty, 0, 0, 0};
        constexpr int AHEAD = STEPS % STAGES, ROUNDS = STEPS / STAGES;
        if (CALOR_ALTERNATE && group == 1) {
            ring.stage = AHEAD;
            ring.phase = ROUNDS & 1;
        }
        float sums[BLOCKS_OF_ROWS][CALOR_COLUMNS / 2];
        for (int turn = first + (CALOR_ALTERNATE ? group * stride : 0); turn < turns;
             turn += CALOR_ALTERNATE ? CALOR_GROUPS * stride : stride) {
            const Tile tile = tile_at(turn, clusters_m, rank_m, rank_n);
            const int row0 = tile.row + (CALOR_ALTERNATE ? 0 : group * CALOR_ROWS);
            if (TURNS && turn != first) turn_wait(group);
            if (SKEWED && group == 1 && turn == first) turn_wait(1);
            if (SHORT && tile.column == FULL_N * CALOR_COLUMNS)
                tile_products(Width<SHORT ? TAIL : 64>(), sums, ring, group, lane, leader, turn == first,
                              oldest);
            else
                tile_products(Width<CALOR_COLUMNS>(), sums, ring, group, lane, leader, turn == first,
                              oldest);
            if (TURNS && turn + stride < turns) turn_give(1 - group);
            products_wait<0>();
            if (CLUSTER == 1 ? lane == 0 : lane < CLUSTER) {
                if (CLUSTER == 1) barrier_arrive(empty + 8 * ring.last);
                else barrier_arrive_at(empty + 8 * ring.last, lane);
            }
            if (TURNS) {
                ring.stage += AHEAD;
                ring.phase ^= ROUNDS & 1;
                if (ring.stage >= STAGES) ring.stage -= STAGES, ring.phase ^= 1;
            }

#if CALOR_SPLIT > 1
            // The other blocks leave their sums in their rings, which nothing writes any more, and
            // the first block adds them in order.
            const u32 mine = base + threadIdx.x * 16;
            if (rank != 0) {
#pragma unroll
                for (int i = 0; i < CALOR_COLUMNS / 8; ++i)
#pragma unroll
                    for (int r = 0; r < BLOCKS_OF_ROWS; ++r)
                        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(
                                         mine + (i * BLOCKS_OF_ROWS + r) * 2048),
                                     "f"(sums[r][i * 4]), "f"(sums[r][i * 4 + 1]),
                                     "f"(sums[r][i * 4 + 2]), "f"(sums[r][i * 4 + 3])
                                     : "memory");
            }
            cluster_sync();
            if (rank != 0) break;
#pragma unroll 1
            for (int other = 1; other < CALOR_SPLIT; ++other) {
                u32 there;
                asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(mine), "r"(other));
#pragma unroll
                for (int i = 0; i < CALOR_COLUMNS / 8; ++i)
#pragma unroll
                    for (int r = 0; r < BLOCKS_OF_ROWS; ++r) {
                        float4 x;
                        asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                                     : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                                     : "r"(there + (i * BLOCKS_OF_ROWS + r) * 2048)
                                     : "memory");
                        sums[r][i * 4] += x.x;
                        sums[r][i * 4 + 1] += x.y;
                        sums[r][i * 4 + 2] += x.z;
                        sums[r][i * 4 + 3] += x.w;
                    }
            }
#endif
            const u32 shifts = biases + bias_at * CALOR_COLUMNS * BIAS_BYTES;
            bias_at = (bias_at + (TURNS ? 2 : 1)) % BIASES;
            if (m <= row0 || CALOR_N <= tile.column) continue;
            // A lane's sums: rows lane / 4 and eight below, columns lane % 4 * 2 and the next, of
            // every eighth column. Four matrices of eight by eight go out at a time.
            const int corner = lane / 8, line = lane % 8;
#if CALOR_TYPE == 4
            const int own_row = warp * 16 + lane / 4;
            float row_scale[BLOCKS_OF_ROWS][2];
#pragma unroll
            for (int r = 0; r < BLOCKS_OF_ROWS; ++r)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int row = row0 + r * 64 + own_row + i * 8;
                    row_scale[r][i] = row < m ? row_scales[row] : 0.0f;
                }
#endif
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                const int column0 = tile.column + chunk * 64;
                if (CALOR_N <= column0) break;
                const int slot = group * CALOR_OUTS + given % CALOR_OUTS;
                const u32 out = outs + slot * OUT_BYTES;
#if CALOR_RESIDUAL
                barrier_wait(arrived + 8 * slot, given / CALOR_OUTS & 1);
#else
                if (leader)
                    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(CALOR_OUTS - 1) : "memory");
                group_sync(group);
#endif
#if CALOR_TYPE == 4
                float2 scale[8];
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const int column = tile.column + chunk * 64 + i * 8 + lane % 4 * 2;
                    scale[i] = float2{0.0f, 0.0f};
                    if (column < CALOR_N) scale[i] = ((const float2*)column_scales)[column / 2];
                }
#endif
#pragma unroll
                for (int r = 0; r < BLOCKS_OF_ROWS; ++r) {
#pragma unroll
                    for (int pair = 0; pair < 4; ++pair) {
                        const int row = r * 64 + warp * 16 + (corner & 1) * 8 + line;
                        const u32 at = out + row * 128 +
                                       (((2 * pair + (corner >> 1)) ^ line) << 4);
                        u32 values[4];
#if CALOR_RESIDUAL
                        u32 added[4];
                        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                                     : "=r"(added[0]), "=r"(added[1]), "=r"(added[2]), "=r"(added[3])
                                     : "r"(at)
                                     : "memory");
#endif
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const int eight = 2 * pair + (i >> 1);
                            const int sum = (chunk * 8 + eight) * 4 + (i & 1) * 2;
                            float x = sums[r][sum], y = sums[r][sum + 1];
#if CALOR_BIAS
                            const float2 shift = shift_at(shifts, chunk * 64 + eight * 8 + lane % 4 * 2);
#else
                            const float2 shift = {0.0f, 0.0f};
#endif
#if CALOR_TYPE == 4
                            x = fmaf(x, row_scale[r][i & 1] * scale[eight].x, shift.x);
                            y = fmaf(y, row_scale[r][i & 1] * scale[eight].y, shift.y);
#elif CALOR_BIAS
                            x += shift.x;
                            y += shift.y;
#endif
                            x = act(x);
                            y = act(y);
#if CALOR_RESIDUAL
                            const float2 other = unpack(added[i]);
#if CALOR_RESIDUAL == 2
                            x *= other.x;
                            y *= other.y;
#else
                            x += other.x;
                            y += other.y;
#endif
#endif
                            values[i] = pack(x, y);
                        }
                        asm volatile(
                            "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                            "r"(values[0]), "r"(values[1]), "r"(values[2]), "r"(values[3])
                            : "memory");
                    }
                }
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                group_sync(group);
#if CALOR_RESIDUAL
                // The piece before has had the time of this one to be read.
                if (leader && 0 < chunk) {
                    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
                    barrier_arrive(gone + 8 * (group * CALOR_OUTS + (given - 1) % CALOR_OUTS));
                }
#endif
                if (row0 + CALOR_ROWS <= m) {
                    if (leader) {
                        tile_store(map_c, column0, row0, out);
                        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                    }
                } else {
                    // A tensor copy would also write the rows beyond the live ones.
                    for (int i = threadIdx.x % 128; i < CALOR_ROWS * 8; i += 128) {
                        const int row = i / 8, eight = i % 8;
                        const int column = column0 + eight * 8;
                        if (row0 + row < m && column < CALOR_N) {
                            uint4 v;
                            asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                                         : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                                         : "r"(out + row * 128 + ((eight ^ row % 8) << 4))
                                         : "memory");
                            *(uint4*)(c + (row0 + row) * words.w[2] + column) = v;
                        }
                    }
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                    group_sync(group);
                }
                ++given;
            }
#if CALOR_RESIDUAL
            oldest = gone + 8 * (group * CALOR_OUTS + (given - 1) % CALOR_OUTS);
            if (TURNS && leader) {
                asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
                barrier_arrive(oldest);
                oldest = 0;
            }
#endif
        }
        if (leader) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
    // A block's shared memory must outlive the arrivals of its neighbours.
    if (BLOCKS > 1) {
        __syncwarp();
        cluster_sync();
    }
}
