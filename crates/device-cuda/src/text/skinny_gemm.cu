// A linear layer on few rows: C[m, n] = act(A[m, k] * W[n, k]^T + bias) + residual, m <= 64.
// Made for reading weights once at full bandwidth. It is not a matrix product for many rows.
//
// How: a block owns CALOR_N_TILE columns and one CALOR_SPLIT-th of k; a warp owns a slice of that
// k and all rows. The order of k inside a product is free, so a lane takes 16 contiguous bytes of a
// row as its fragment, of A and of W alike: neither needs shuffling, packing or sharing between
// threads. W goes to shared memory only as a deep private queue, filled before the wait for the
// previous kernel. Partial sums meet in shared memory, then across the cluster, in a fixed order.
//
// Macros (the host puts them in front):
//   CALOR_TYPE         1 f16, 2 bf16: A, W, residual, C
//   CALOR_N, CALOR_K   extents of W, multiples of 8
//   CALOR_M_TILES      1 .. 4: room for 16 rows each
//   CALOR_N_TILE       columns of a block, multiple of 8
//   CALOR_SPLIT        1, 2, 4, 8: blocks of a cluster that share k (above 1: sm_90 and later)
//   CALOR_WARPS        warps of a block, 1 .. 16
//   CALOR_STAGES       k steps of weights in flight a thread; at most STEPS (below) is useful
//   CALOR_BULK         1: the block's whole share of W is fetched at once by the bulk copy engine
//                      (sm_90 and later; k a multiple of 32; STAGES is then of no meaning)
//   CALOR_SHARE        1, 2, 4, 8: above 1, neighbours in n make a cluster and fetch A once for all
//                      by multicast, into shared memory (BULK, SPLIT 1 and LIVE_EARLY)
//   CALOR_BIAS         0 none, 1 in the type of W. With CALOR_NORM it is folded, and must be 0
//   CALOR_ACT          0 none, 1 relu, 2 gelu (erf), 3 gelu_tanh, 4 quick_gelu, 5 silu, 6 tanh
//   CALOR_RESIDUAL     0 none, 1 added after the activation, 2 multiplied with
//   CALOR_NORM         1: A stands for its layer norm, 2: for its root-mean-square norm. W comes
//                      from fold_norm.cu; moments are taken on the way
//   CALOR_EPS          epsilon of that norm, as a float literal
//   CALOR_NORMED       0: nobody else reads the norm, 1: its rows are written, 2: so, with a bias
//   CALOR_PDL          1: launched with programmatic stream serialization (sm_90 and later)
//   CALOR_LIVE_EARLY   1: `live` is written before the captured program begins, so it may be read
//                      before the wait. 0: a kernel of the program writes it
//   CALOR_MIN_BLOCKS   blocks that must fit a multiprocessor by registers; 0 leaves it open
//
// Buffers: A, W, [bias], [residual], [gain f32 k: CALOR_NORMED], [bias of the norm f32 k:
//   CALOR_NORMED 2], C, [rows of the norm, dense: CALOR_NORMED].
// Words: m, row stride of A, of C, of residual (in elements, strides multiples of 8).
// All pointers are 16-byte aligned. `residual` may be C itself.
//
// Grid: x = CALOR_SPLIT * ceil(n / CALOR_N_TILE), with SHARE rounded up to a multiple of it;
// the cluster (SPLIT or SHARE, 1, 1) is in the code.
// Block: 32 * CALOR_WARPS. Dynamic shared bytes, where J = N_TILE / 8, G = M_TILES * J * 32:
//   STEPS = ceil(ceil(k / 32) / (SPLIT * WARPS)), S = min(STAGES, STEPS)
//   max(QUEUE, WARPS * (G * 16 + M_TILES * 128))                     queue, then partial sums
//     QUEUE = BULK ? N_TILE * (STEPS * WARPS * 64 + (STEPS * WARPS odd ? 128 : 64))
//                  : S * J * WARPS * 512
//   + (SPLIT > 1 ? G * 16 + SPLIT * M_TILES * 128 : 0)               sums from the cluster
//   + (SHARE > 1 ? M_TILES * 16 * (2 * k + (k % 64 ? 128 : 64)) : 0)  rows of A
//   + 8 * N_TILE + 128 * M_TILES + 16                                vectors, moments, barriers

#ifndef CALOR_MIN_BLOCKS
#define CALOR_MIN_BLOCKS 0
#endif
#ifndef CALOR_BULK
#define CALOR_BULK 0
#endif
#ifndef CALOR_SHARE
#define CALOR_SHARE 1
#endif
#if CALOR_SHARE > 1 && (!CALOR_BULK || CALOR_SPLIT > 1 || !CALOR_LIVE_EARLY)
#error "rows are shared only with bulk copies, without a split of k, with early live counts"
#endif
#if CALOR_N % 8 || CALOR_K % 8 || CALOR_N_TILE % 8
#error "n, k and the tile must be multiples of 8"
#endif
#if CALOR_M_TILES < 1 || CALOR_M_TILES > 4
#error "CALOR_M_TILES is 1 to 4"
#endif
#if CALOR_NORM && CALOR_BIAS
#error "a folded norm brings its bias"
#endif
#if CALOR_TYPE != 1 && CALOR_TYPE != 2
#error "CALOR_TYPE is 1 (f16) or 2 (bf16)"
#endif
#if CALOR_TYPE == 2 && __CUDA_ARCH__ < 800
#error "bf16 needs sm_80"
#endif
#if (CALOR_SPLIT > 1 || CALOR_PDL) && __CUDA_ARCH__ < 900
#error "clusters and dependent launch need sm_90"
#endif

#if CALOR_BULK && (__CUDA_ARCH__ < 900 || CALOR_K % 32)
#error "bulk copies need sm_90 and k in steps of 32"
#endif

#define M_TILES CALOR_M_TILES
#define SPLIT CALOR_SPLIT
#define SHARE CALOR_SHARE
#define WARPS CALOR_WARPS
#define ROWS (16 * M_TILES)
#define THREADS (32 * WARPS)
#define N_GROUPS (CALOR_N_TILE / 8)

typedef unsigned short Element;

struct Words { long long w[4]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[4]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

struct alignas(8) Moments { float mean, scale; };
struct alignas(8) Sums { float sum, squares; };
struct alignas(16) Piece { unsigned r[4]; };
struct alignas(16) Four { float x[4]; };
// Part of a row that is to be normed; a row below 0 is none.
struct Normed {
    int row, col;
    Piece raw;
    Four gain[2], shift[2];
};

__device__ inline float widen(unsigned short bits) {
#if CALOR_TYPE == 1
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    return __uint_as_float((unsigned)bits << 16);
#endif
}
__device__ inline unsigned narrow_pair(float low, float high) {
    unsigned pair;
#if CALOR_TYPE == 1
    unsigned short a, b;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(a) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(b) : "f"(high));
    pair = (unsigned)a | (unsigned)b << 16;
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
    return pair;
}

__device__ inline float activate(float x) {
#if CALOR_ACT == 0
    return x;
#elif CALOR_ACT == 1
    return x < 0.0f ? 0.0f : x;
#elif CALOR_ACT == 2
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
#elif CALOR_ACT == 3
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
#elif CALOR_ACT == 4
    return x / (1.0f + expf(-1.702f * x));
#elif CALOR_ACT == 5
    return x / (1.0f + expf(-x));
#elif CALOR_ACT == 6
    return tanhf(x);
#else
#error "CALOR_ACT is 0 to 6"
#endif
}

__device__ inline Moments moments_of(Sums sums) {
    const float mean = CALOR_NORM == 2 ? 0.0f : sums.sum * (1.0f / CALOR_K);
    const float variance = fmaxf(sums.squares * (1.0f / CALOR_K) - mean * mean, 0.0f);
    return Moments{mean, rsqrtf(variance + CALOR_EPS)};
}

__device__ inline void wait_for_previous() {
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_start() {
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline unsigned shared_address(const void* p) {
    return (unsigned)__cvta_generic_to_shared(p);
}

// Both read past L1: another kernel, perhaps resident here at the same time, wrote the rows.
__device__ inline Piece load_piece(const Element* from, bool valid) {
    Piece p = {{0, 0, 0, 0}};
    if (valid)
        asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(p.r[0]), "=r"(p.r[1]), "=r"(p.r[2]), "=r"(p.r[3])
                     : "l"(from) : "memory");
    return p;
}
__device__ inline unsigned load_pair(const Element* from, bool valid) {
    unsigned pair = 0;
    if (valid) asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(pair) : "l"(from) : "memory");
    return pair;
}

__device__ inline void copy_async(unsigned to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(bytes) : "memory");
#else
    const Piece p = load_piece((const Element*)from, valid);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "r"(to), "r"(p.r[0]), "r"(p.r[1]), "r"(p.r[2]), "r"(p.r[3]) : "memory");
#endif
}
__device__ inline void close_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING>
__device__ inline void wait_groups() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
#endif
}
__device__ inline Piece load_shared(unsigned from) {
    Piece p;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(p.r[0]), "=r"(p.r[1]), "=r"(p.r[2]), "=r"(p.r[3]) : "r"(from) : "memory");
    return p;
}

// 16 rows by 8 columns by one piece (32 values of k): `upper` holds rows 0 to 7 of A.
__device__ inline void multiply(float (&d)[4], const Piece& upper, const Piece& lower,
                                const Piece& w) {
#if __CUDA_ARCH__ >= 800
#if CALOR_TYPE == 1
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#else
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#endif
#pragma unroll
    for (int i = 0; i < 4; i += 2)
        asm(MULTIPLY " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(upper.r[i]), "r"(lower.r[i]), "r"(upper.r[i + 1]), "r"(lower.r[i + 1]),
              "r"(w.r[i]), "r"(w.r[i + 1]));
#else
#pragma unroll
    for (int i = 0; i < 4; ++i)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"
            " {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(upper.r[i]), "r"(lower.r[i]), "r"(w.r[i]));
#endif
}

#if CALOR_BULK || SPLIT > 1
__device__ inline void open_barrier(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\t"
                 "fence.mbarrier_init.release.cluster;\n\t"
                 "fence.proxy.async.shared::cta;\n\t"
                 "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void await_barrier(unsigned barrier) {
    unsigned done;
    do {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done) : "r"(barrier) : "memory");
    } while (!done);
}
#endif

#if CALOR_BULK
__device__ inline void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1], %2, [%3];"
                 :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
__device__ inline void copy_to_all(unsigned to, const void* from, unsigned bytes,
                                   unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1], %2, [%3], %4;"
                 :: "r"(to), "l"(from), "r"(bytes), "r"(barrier),
                    "h"((unsigned short)((1 << SHARE) - 1)) : "memory");
}
#endif

#if SPLIT > 1 || SHARE > 1
__device__ inline unsigned at_rank(unsigned address, int rank) {
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}
// Relaxed, because a release here is a fence for the whole device: only the opened barriers must be
// seen, and their own fence is in open_barrier.
__device__ inline void cluster_arrive() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#endif

__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int most(int a, int b) { return a < b ? b : a; }
constexpr int CHUNKS = (CALOR_K + 31) / 32;
constexpr int STEPS = (CHUNKS + SPLIT * WARPS - 1) / (SPLIT * WARPS);
constexpr int STAGES = least(CALOR_STAGES, STEPS);
// Steps of A's rows in flight: 64 registers of them cover the trip to L2.
constexpr int AHEAD = SHARE > 1 ? 1 : least(STEPS, most(1, 8 / M_TILES));
constexpr int GROUPS = M_TILES * N_GROUPS * 32;
constexpr int OWN_GROUPS = GROUPS / SPLIT;
constexpr int OWN_TURNS = (OWN_GROUPS + THREADS - 1) / THREADS;
// 64 bytes past a multiple of 128 bring two rows to different halves of the banks.
constexpr int SHARE_BYTES = STEPS * WARPS * 64;
constexpr int W_ROW_BYTES = SHARE_BYTES + (SHARE_BYTES % 128 ? 128 : 64);
constexpr int QUEUE_BYTES = most(CALOR_BULK ? CALOR_N_TILE * W_ROW_BYTES
                                            : STAGES * N_GROUPS * THREADS * 16,
                                 WARPS * (GROUPS * 16 + ROWS * 8));
constexpr int A_ROW_BYTES = CALOR_K * 2 + (CALOR_K % 64 ? 128 : 64);
constexpr int CLUSTER_BYTES = SPLIT > 1 ? GROUPS * 16 + SPLIT * ROWS * 8
    : SHARE > 1 ? ROWS * A_ROW_BYTES : 0;

extern "C" __global__ void
#if SPLIT > 1 || SHARE > 1
__cluster_dims__(SPLIT * SHARE, 1, 1)
#endif
#if CALOR_MIN_BLOCKS
__launch_bounds__(THREADS, CALOR_MIN_BLOCKS)
#else
__launch_bounds__(THREADS)
#endif
calor_skinny_gemm(
    const Element* a,
    const Element* weights,
#if CALOR_BIAS
    const Element* bias,
#endif
#if CALOR_RESIDUAL
    const Element* residual,
#endif
#if CALOR_NORMED
    const float* gain,
#endif
#if CALOR_NORMED == 2
    const float* shift,
#endif
    Element* c,
#if CALOR_NORMED
    Element* normed,
#endif
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int thread = (int)threadIdx.x;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const int n_first = (int)(blockIdx.x / SPLIT) * CALOR_N_TILE;

    const int rank = SPLIT > 1 ? (int)(blockIdx.x % SPLIT) : 0;
    const int k_first = (rank * WARPS + warp) * STEPS * 32 + lane % 4 * 8;
    const int n_lane = n_first + lane / 4;
    const Element* const my_weights = weights + (long long)n_lane * CALOR_K + k_first;
    const unsigned queue = shared_address(shared) + thread * 16;
#if SPLIT > 1 || SHARE > 1
    unsigned char* const from_cluster = shared + QUEUE_BYTES;
#endif
    float* const vectors = (float*)(shared + QUEUE_BYTES + CLUSTER_BYTES);
#if CALOR_NORM
    Moments* const norm = (Moments*)(vectors + 2 * CALOR_N_TILE);
#endif
#if CALOR_BULK || SPLIT > 1
    // The first counts bytes of W, the second bytes from the cluster.
    const unsigned barrier = shared_address(vectors + 2 * CALOR_N_TILE) + ROWS * 8;
#endif
#if SPLIT > 1
    // A cluster barrier would do instead, but its fence costs a microsecond on the way out.
    const unsigned part_barrier = barrier + 8;
    if (thread == 0)
        open_barrier(part_barrier, SPLIT * (OWN_GROUPS * 16 + (CALOR_NORM ? ROWS * 8 : 0)));
    cluster_arrive();
#endif

#if CALOR_NORM
    // Vectors are weights too: they go into the oldest group, so that nobody stops for them here.
    const float* const folded = (const float*)(weights + (long long)CALOR_N * CALOR_K);
    for (int i = thread * 4; i < CALOR_N_TILE; i += THREADS * 4)
#pragma unroll
        for (int which = 0; which < 2; ++which)
            copy_async(shared_address(vectors + which * CALOR_N_TILE + i),
                       folded + which * CALOR_N + n_first + i, n_first + i < CALOR_N);
#endif
#if CALOR_BULK
    close_group();
    const int share_first = rank * WARPS * STEPS * 32;
    if (warp == 0) {
        const int share = most(0, least(WARPS * STEPS * 32, CALOR_K - share_first));
        const int share_rows = most(0, least(CALOR_N_TILE, CALOR_N - n_first));
        if (lane == 0) open_barrier(barrier, share * share_rows * 2);
        __syncwarp();
        for (int row = lane; row < share_rows && 0 < share; row += 32)
            copy_bulk(shared_address(shared) + row * W_ROW_BYTES,
                      weights + (long long)(n_first + row) * CALOR_K + share_first, share * 2,
                      barrier);
    }
    let_next_start();
    const unsigned my_share = shared_address(shared) + lane / 4 * W_ROW_BYTES
        + (k_first - share_first) * 2;
#else
    const auto fetch_step = [&](int step) {
#pragma unroll
        for (int j = 0; j < N_GROUPS; ++j) {
            const bool valid = k_first + step * 32 < CALOR_K && n_lane + j * 8 < CALOR_N;
            copy_async(queue + (step % STAGES * N_GROUPS + j) * (THREADS * 16),
                       my_weights + (long long)j * 8 * CALOR_K + step * 32, valid);
        }
    };
#pragma unroll
    for (int step = 0; step < STAGES; ++step) {
        fetch_step(step);
        close_group();
    }
    let_next_start();
#endif
#if CALOR_LIVE_EARLY == 0
    wait_for_previous();
#endif
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const long long a_stride = live_word(words.w[1], rules.at[1], live);
    const long long c_stride = live_word(words.w[2], rules.at[2], live);
    const long long r_stride = live_word(words.w[3], rules.at[3], live);

#if CALOR_BIAS
    for (int i = thread; i < CALOR_N_TILE; i += THREADS)
        vectors[i] = n_first + i < CALOR_N ? widen(bias[n_first + i]) : 0.0f;
#endif
#if SHARE > 1
    // The neighbours may write here once this barrier expects their bytes.
    const unsigned row_barrier = barrier + 8;
    if (thread == 0) open_barrier(row_barrier, m * CALOR_K * 2);
    cluster_arrive();
#endif
#if SPLIT > 1 || SHARE > 1
    cluster_wait();
#endif
#if CALOR_LIVE_EARLY
    wait_for_previous();
#endif

#if CALOR_BULK && SHARE == 1
    __syncthreads();  // The barrier is open for all.
#endif
#if SHARE > 1
    const unsigned row_queue = shared_address(from_cluster);
    if (warp == 0)
        for (int row = (int)(blockIdx.x % SHARE) + lane * SHARE; row < m; row += 32 * SHARE)
            copy_to_all(row_queue + row * A_ROW_BYTES, a + row * a_stride, CALOR_K * 2,
                        row_barrier);
    const unsigned my_rows = row_queue + lane / 4 * A_ROW_BYTES + k_first * 2;
#else
    const Element* const my_rows = a + lane / 4 * a_stride + k_first;
#endif
    Piece rows[AHEAD][M_TILES][2];
    const auto load_rows = [&](Piece (&to)[M_TILES][2], int step) {
#pragma unroll
        for (int i = 0; i < M_TILES * 2; ++i)
#if SHARE > 1
            to[i / 2][i % 2] = load_shared(my_rows + i * 8 * A_ROW_BYTES + step * 64);
#else
            to[i / 2][i % 2] = load_piece(my_rows + i * 8 * a_stride + step * 32,
                                          lane / 4 + i * 8 < m && k_first + step * 32 < CALOR_K);
#endif
    };
#if SHARE == 1
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) load_rows(rows[i], i);
#endif

    // The group of four sums that this thread finishes in each turn: rows `row` and `row + 8`.
    const auto row_of = [&](int group) {
        return group / (N_GROUPS * 32) * 16 + group % 32 / 4;
    };
    const auto column_of = [&](int group) { return group / 32 % N_GROUPS * 8 + group % 4 * 2; };
#if CALOR_RESIDUAL
    unsigned addend[OWN_TURNS][2];
#pragma unroll
    for (int turn = 0; turn < OWN_TURNS; ++turn) {
        const int local = thread + turn * THREADS;
        const int group = rank * OWN_GROUPS + local;
        const int row = row_of(group);
        const int n = n_first + column_of(group);
        const Element* const from = residual + row * r_stride + n;
        addend[turn][0] = load_pair(from, local < OWN_GROUPS && row < m && n < CALOR_N);
        addend[turn][1] = load_pair(from + 8 * r_stride,
                                    local < OWN_GROUPS && row + 8 < m && n < CALOR_N);
    }
#endif

    float sums[M_TILES][N_GROUPS][4] = {};
#if CALOR_NORM
    // The row sums are a product with ones; the squares are the diagonal of a product of the rows
    // with themselves. Both ride on the tensor cores, which wait for memory anyway.
    constexpr unsigned ONE = CALOR_TYPE == 1 ? 0x3c003c00u : 0x3f803f80u;
    const Piece ones = {{ONE, ONE, ONE, ONE}};
    float row_sums[M_TILES][4] = {};
    float squares[M_TILES][2][4] = {};
#endif
#pragma unroll (SHARE > 1 && STEPS <= 16 ? STEPS : 1)
    for (int base = 0; base < STEPS; base += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int step = base + i;
            if (STEPS <= step) break;
#if CALOR_BULK
            if (step == 0) await_barrier(barrier);
#if SHARE > 1
            if (step == 0) await_barrier(row_barrier);
#endif
            if (CALOR_K <= k_first - lane % 4 * 8 + step * 32) break;
#if SHARE > 1
            load_rows(rows[i], step);
#endif
            const unsigned from = my_share + step * 64;
            constexpr unsigned GROUP_BYTES = 8 * W_ROW_BYTES;
#else
            wait_groups<STAGES - 1>();
            constexpr unsigned GROUP_BYTES = THREADS * 16;
            const unsigned from = queue + step % STAGES * N_GROUPS * (THREADS * 16);
#endif
#pragma unroll
            for (int j = 0; j < N_GROUPS; ++j) {
                const Piece w = load_shared(from + j * GROUP_BYTES);
#pragma unroll
                for (int t = 0; t < M_TILES; ++t)
                    multiply(sums[t][j], rows[i][t][0], rows[i][t][1], w);
            }
#if CALOR_NORM
#pragma unroll
            for (int t = 0; t < M_TILES; ++t) {
                multiply(row_sums[t], rows[i][t][0], rows[i][t][1], ones);
                multiply(squares[t][0], rows[i][t][0], rows[i][t][1], rows[i][t][0]);
                multiply(squares[t][1], rows[i][t][0], rows[i][t][1], rows[i][t][1]);
            }
#endif
#if !CALOR_BULK
            if (step + STAGES < STEPS) fetch_step(step + STAGES);
            close_group();
#endif
#if SHARE == 1
            if (step + AHEAD < STEPS) load_rows(rows[i], step + AHEAD);
#endif
        }
    }

#if CALOR_NORMED
    // A part of the norm's rows for each block: asked for here, so that the sums meet meanwhile.
    const int normed_pieces = m * (CALOR_K / 8);
    const int normed_each = (normed_pieces + (int)gridDim.x - 1) / (int)gridDim.x;
    const auto fetch_normed = [&](int local) {
        Normed it;
        const int piece = (int)blockIdx.x * normed_each + local;
        it.row = local < normed_each && piece < normed_pieces ? piece / (CALOR_K / 8) : -1;
        it.col = piece % (CALOR_K / 8) * 8;
        it.raw = load_piece(a + it.row * a_stride + it.col, 0 <= it.row);
        if (0 <= it.row)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                it.gain[i] = *(const Four*)(gain + it.col + i * 4);
#if CALOR_NORMED == 2
                it.shift[i] = *(const Four*)(shift + it.col + i * 4);
#endif
            }
        return it;
    };
    Normed one = fetch_normed(thread);
#endif
#if CALOR_BULK
    wait_groups<0>();
#endif
    // Nobody reads the queue any more: it becomes the place where the warps' sums meet.
    __syncthreads();
    Four* const meeting = (Four*)shared;
#if CALOR_NORM
    Sums* const row_meeting = (Sums*)(shared + WARPS * GROUPS * 16);
#endif
#pragma unroll
    for (int t = 0; t < M_TILES; ++t) {
#pragma unroll
        for (int j = 0; j < N_GROUPS; ++j)
            meeting[warp * GROUPS + (t * N_GROUPS + j) * 32 + lane] =
                Four{{sums[t][j][0], sums[t][j][1], sums[t][j][2], sums[t][j][3]}};
#if CALOR_NORM
        // Row r of the upper eight has its square in column r, which lane 4 r + r / 2 holds.
        const int r = lane / 4;
        if (lane % 4 == r / 2) {
            const float upper = r % 2 ? squares[t][0][1] : squares[t][0][0];
            const float lower = r % 2 ? squares[t][1][3] : squares[t][1][2];
            row_meeting[warp * ROWS + t * 16 + r] = Sums{row_sums[t][0], upper};
            row_meeting[warp * ROWS + t * 16 + r + 8] = Sums{row_sums[t][2], lower};
        }
#endif
    }
    __syncthreads();

    const auto meet = [&](int group) {
        Four all = meeting[group];
#pragma unroll
        for (int w = 1; w < WARPS; ++w) {
            const Four one = meeting[w * GROUPS + group];
#pragma unroll
            for (int i = 0; i < 4; ++i) all.x[i] += one.x[i];
        }
        return all;
    };
#if CALOR_NORM
    const auto meet_row = [&](int row) {
        Sums all = row_meeting[row];
#pragma unroll
        for (int w = 1; w < WARPS; ++w) {
            all.sum += row_meeting[w * ROWS + row].sum;
            all.squares += row_meeting[w * ROWS + row].squares;
        }
        return all;
    };
#endif

#if SPLIT > 1
    // Each block finishes one SPLIT-th of the groups; the others push their sums into its memory.
    Four* const parts = (Four*)from_cluster;
#if CALOR_NORM
    Sums* const row_parts = (Sums*)(from_cluster + GROUPS * 16);
#endif
    for (int group = thread; group < GROUPS; group += THREADS) {
        const Four all = meet(group);
        const int owner = group / OWN_GROUPS;
        const unsigned to =
            at_rank(shared_address(parts + rank * OWN_GROUPS + group % OWN_GROUPS), owner);
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32"
                     " [%0], {%1, %2, %3, %4}, [%5];"
                     :: "r"(to), "f"(all.x[0]), "f"(all.x[1]), "f"(all.x[2]), "f"(all.x[3]),
                        "r"(at_rank(part_barrier, owner)) : "memory");
    }
#if CALOR_NORM
    for (int i = thread; i < ROWS * SPLIT; i += THREADS) {
        const Sums all = meet_row(i % ROWS);
        const unsigned to = at_rank(shared_address(row_parts + rank * ROWS + i % ROWS), i / ROWS);
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32"
                     " [%0], {%1, %2}, [%3];"
                     :: "r"(to), "f"(all.sum), "f"(all.squares),
                        "r"(at_rank(part_barrier, i / ROWS)) : "memory");
    }
#endif
    await_barrier(part_barrier);
#endif

    Four finished[OWN_TURNS];
#pragma unroll
    for (int turn = 0; turn < OWN_TURNS; ++turn) {
        const int local = thread + turn * THREADS;
        if (OWN_GROUPS <= local) break;
#if SPLIT > 1
        finished[turn] = parts[local];
#pragma unroll
        for (int r = 1; r < SPLIT; ++r) {
            const Four one = parts[r * OWN_GROUPS + local];
#pragma unroll
            for (int i = 0; i < 4; ++i) finished[turn].x[i] += one.x[i];
        }
#else
        finished[turn] = meet(local);
#endif
    }
#if CALOR_NORM
    for (int row = thread; row < ROWS; row += THREADS) {
#if SPLIT > 1
        Sums all = row_parts[row];
#pragma unroll
        for (int r = 1; r < SPLIT; ++r) {
            all.sum += row_parts[r * ROWS + row].sum;
            all.squares += row_parts[r * ROWS + row].squares;
        }
#else
        const Sums all = meet_row(row);
#endif
        norm[row] = moments_of(all);
    }
    __syncthreads();
#endif
#if CALOR_NORMED
    for (int local = thread; 0 <= one.row; one = fetch_normed(local += THREADS)) {
        const Moments of_row = norm[one.row];
        Piece out;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float x[2] = {widen((unsigned short)one.raw.r[i]),
                          widen((unsigned short)(one.raw.r[i] >> 16))};
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int at = i % 2 * 2 + j;
                x[j] = (x[j] - of_row.mean) * of_row.scale * one.gain[i / 2].x[at];
#if CALOR_NORMED == 2
                x[j] += one.shift[i / 2].x[at];
#endif
            }
            out.r[i] = narrow_pair(x[0], x[1]);
        }
        *(Piece*)(normed + (long long)one.row * CALOR_K + one.col) = out;
    }
#endif

#pragma unroll
    for (int turn = 0; turn < OWN_TURNS; ++turn) {
        const int local = thread + turn * THREADS;
        if (OWN_GROUPS <= local) break;
        const int group = rank * OWN_GROUPS + local;
        const int column = column_of(group);
        const int n = n_first + column;
        if (CALOR_N <= n) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = row_of(group) + half * 8;
            if (m <= row) continue;
            float x[2] = {finished[turn].x[half * 2], finished[turn].x[half * 2 + 1]};
#if CALOR_NORM
            const Moments of_row = norm[row];
#endif
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#if CALOR_NORM
                x[i] = of_row.scale * (x[i] - of_row.mean * vectors[column + i])
                    + vectors[CALOR_N_TILE + column + i];
#elif CALOR_BIAS
                x[i] += vectors[column + i];
#endif
                x[i] = activate(x[i]);
#if CALOR_RESIDUAL == 2
                x[i] *= widen((unsigned short)(addend[turn][half] >> 16 * i));
#elif CALOR_RESIDUAL
                x[i] += widen((unsigned short)(addend[turn][half] >> 16 * i));
#endif
            }
            *(unsigned*)(c + row * c_stride + n) = narrow_pair(x[0], x[1]);
        }
    }
}
