// One row for the rows lo <= j < hi of each segment: their sum, mean, greatest, least, first or
// last, then divided by its length where that follows. An empty segment gives zeros.
//
// The blocks of a cluster share the rows of a segment: each folds its part of them in a fixed
// order, then its part of the columns over the cluster.
//
// Macros:
//   CALOR_IN, CALOR_OUT   types of the rows and of the result
//   CALOR_D        length of a row
//   CALOR_KIND     0 sum, 1 mean, 2 max, 3 min, 4 first, 5 last
//   CALOR_UNIT     1: the result is divided by max(its length, eps)
//   CALOR_EPS      that epsilon, as a float literal
//   CALOR_SPLIT    1, 2, 4, 8: blocks of a cluster (above 1: sm_90 and later)
//   CALOR_THREADS  threads of a block
//   CALOR_WIDTH    elements that lie side by side in a thread: 8, or 1 where d is no multiple of 8
//   CALOR_PDL      1: launched with programmatic stream serialization (sm_90 and later)
//
// Buffers: rows [t, d], lo i32, hi i32, result. Words: segments, t. Everything is dense, and `live`
//   is written before the program begins.
// Grid: x = SPLIT * segments; the cluster is in the code. Block: THREADS.
// Dynamic shared bytes: 4 * GROUPS * d, where GROUPS (below) is at least 1.

typedef Stored<CALOR_IN> In;
typedef Stored<CALOR_OUT> Out;

#define SPLIT CALOR_SPLIT
#define WIDTH CALOR_WIDTH
#define THREADS CALOR_THREADS
#define WARPS (THREADS / 32)

constexpr int COLUMN_PIECES = CALOR_D / WIDTH;
// Threads side by side, and how many rows they fold at a time.
constexpr int ACROSS = least(COLUMN_PIECES, THREADS);
constexpr int GROUPS = THREADS / ACROSS;
// Rows of a thread in flight.
constexpr int AHEAD = 4;
constexpr float LOWEST = -3.40282347e38f;

__device__ inline float neutral() {
    return CALOR_KIND == 2 ? LOWEST : CALOR_KIND == 3 ? -LOWEST : 0.0f;
}
__device__ inline float fold(float a, float b) {
    return CALOR_KIND == 2 ? fmaxf(a, b) : CALOR_KIND == 3 ? fminf(a, b) : a + b;
}

#if SPLIT > 1
__device__ inline void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ inline float load_at_rank(const float* place, int rank) {
    unsigned there;
    float x;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(there) : "r"((unsigned)__cvta_generic_to_shared(place)), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(there) : "memory");
    return x;
}
#else
__device__ inline void meet_cluster() { __syncthreads(); }
__device__ inline float load_at_rank(const float* place, int) { return *place; }
#endif

extern "C" __global__ void
#if SPLIT > 1
__cluster_dims__(SPLIT, 1, 1)
#endif
__launch_bounds__(THREADS) calor_pool(
    const In::Element* rows,
    const int* lows,
    const int* highs,
    Out::Element* result,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
    extern __shared__ __align__(16) float parts[];
    const int thread = (int)threadIdx.x;
    const int rank = (int)(blockIdx.x % SPLIT);
    const long long segment = blockIdx.x / SPLIT;
    let_next_start();
    const bool is_live = segment < live_word(words.w[0], rules.at[0], live);
    // Who waits for this kernel waits for those before it, so that all blocks wait.
    wait_for_previous();
    if (!is_live) return;

    const long long row_count = words.w[1];
    const long long low = __ldcg(lows + segment);
    const long long high = __ldcg(highs + segment);
    long long first = low < 0 ? 0 : low;
    long long end = high < row_count ? high : row_count;
    const bool is_empty = end <= first;
    const float count = is_empty ? 1.0f : (float)(end - first);
    if (CALOR_KIND == 4 && !is_empty) end = first + 1;
    if (CALOR_KIND == 5 && !is_empty) first = end - 1;
    const long long each = is_empty ? 0 : (end - first + SPLIT - 1) / SPLIT;
    const long long part_first = first + rank * each;
    const long long part_end = end < part_first + each ? end : part_first + each;

    const int group = thread / ACROSS;
    for (int piece = thread % ACROSS; piece < COLUMN_PIECES && group < GROUPS; piece += ACROSS) {
        float folded[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) folded[i] = neutral();
        const In::Element* const from = rows + piece * WIDTH;
        long long row = part_first + group;
        for (; row + (AHEAD - 1) * GROUPS < part_end; row += AHEAD * GROUPS) {
            Pack<In::Element, WIDTH> part[AHEAD];
#pragma unroll
            for (int turn = 0; turn < AHEAD; ++turn)
                part[turn] = load_shared_by_kernels<In::Element, WIDTH>(
                    from + (row + turn * GROUPS) * CALOR_D);
#pragma unroll
            for (int turn = 0; turn < AHEAD; ++turn)
#pragma unroll
                for (int i = 0; i < WIDTH; ++i)
                    folded[i] = fold(folded[i], In::value_of(part[turn].at[i]));
        }
        for (; row < part_end; row += GROUPS) {
            const Pack<In::Element, WIDTH> part =
                load_shared_by_kernels<In::Element, WIDTH>(from + row * CALOR_D);
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) folded[i] = fold(folded[i], In::value_of(part.at[i]));
        }
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) parts[group * CALOR_D + piece * WIDTH + i] = folded[i];
    }
    __syncthreads();
    for (int col = thread; col < CALOR_D; col += THREADS) {
        float folded = parts[col];
#pragma unroll 4
        for (int other = 1; other < GROUPS; ++other)
            folded = fold(folded, parts[other * CALOR_D + col]);
        parts[col] = folded;
    }
    meet_cluster();

    // From here on a block has its own columns; it leaves them where nobody else looks.
    constexpr int OWN = (CALOR_D + SPLIT - 1) / SPLIT;
    constexpr int TURNS = (OWN + THREADS - 1) / THREADS;
    float own[TURNS];
    float squares = 0.0f;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        const int local = thread + turn * THREADS;
        const int col = rank * OWN + local;
        own[turn] = 0.0f;
        if (OWN <= local || CALOR_D <= col) continue;
        float folded = neutral();
#pragma unroll
        for (int other = 0; other < SPLIT; ++other)
            folded = fold(folded, load_at_rank(parts + col, other));
        if (CALOR_KIND == 1) folded /= count;
        if ((CALOR_KIND == 2 || CALOR_KIND == 3) && is_empty) folded = 0.0f;
        own[turn] = folded;
        squares += folded * folded;
    }
    float length = 1.0f;
#if CALOR_UNIT
    __shared__ float warp_squares[WARPS];
    __shared__ float own_squares;
    squares = fold_warp(squares);
    if (thread % 32 == 0) warp_squares[thread / 32] = squares;
    __syncthreads();
    if (thread == 0) {
        float all = 0.0f;
        for (int warp = 0; warp < WARPS; ++warp) all += warp_squares[warp];
        own_squares = all;
    }
    meet_cluster();
    float all = 0.0f;
#pragma unroll
    for (int other = 0; other < SPLIT; ++other) all += load_at_rank(&own_squares, other);
    length = sqrtf(fmaxf(all, CALOR_EPS * CALOR_EPS));
#endif
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        const int local = thread + turn * THREADS;
        const int col = rank * OWN + local;
        if (local < OWN && col < CALOR_D)
            result[segment * CALOR_D + col] = Out::element_of(own[turn] / length);
    }
    // Nobody leaves while another one reads from here.
    if (SPLIT > 1) meet_cluster();
}
