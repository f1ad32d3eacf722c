// Products of few rows with weights of four bits, made for reading the weights once at full
// bandwidth: m <= 64. See nf4.cu.
//
// A block owns CALOR_N_TILE columns of each weight, a warp every CALOR_WARPS-th chunk of 128
// elements of the sum, and all rows. The order of the sum inside a product is free, so a lane
// takes 16 contiguous bytes of codes, and of x the elements that go with them: neither is shared
// between threads. Weights are the left factor: then the eight columns of a product are eight rows
// of x, and fragments of x are used as they are loaded. Codes and scales go to shared memory only
// as a deep private queue. Partial sums of the warps meet in shared memory, in a fixed order.
//
// Macros
//   CALOR_ROW_TILES 1 to 8: room for 8 rows each
//   CALOR_N_TILE    columns of a block, multiple of 16
//   CALOR_WARPS     warps of a block
//   CALOR_STAGES    chunks of codes in flight for each warp
//   CALOR_EARLY     1: the weights are there before the captured program begins, so the queue is
//                   filled before the wait for the previous kernel
// K is a multiple of 64. Bases and the stride of x are multiples of 16 bytes.
// Launch: 32 * WARPS threads, ceil(N / N_TILE) blocks, with G = PARTS * N_TILE / 8
//   max(STAGES * G * WARPS * 640, WARPS * ROW_TILES * G * 256) bytes of dynamic shared memory.

constexpr int ROW_TILES = CALOR_ROW_TILES, WARPS = CALOR_WARPS, STAGES = CALOR_STAGES;
constexpr int THREADS = 32 * WARPS, CHUNK = 128;
// Eight columns each; two of them are the sixteen rows of a left factor.
constexpr int OWN_GROUPS = CALOR_N_TILE / 8, GROUPS = PARTS * OWN_GROUPS;
constexpr int OWN_PAIRS = OWN_GROUPS / 2, PAIRS = GROUPS / 2;
constexpr int STEPS = ((CALOR_K + CHUNK - 1) / CHUNK + WARPS - 1) / WARPS;
constexpr int STAGE_BYTES = GROUPS * THREADS * 20;
// Quarters of a chunk whose rows are on their way.
constexpr int AHEAD = ROW_TILES <= 4 ? 4 : 2;
static_assert(CALOR_K % 64 == 0, "odd extents need nf4_plain");
static_assert(CALOR_N_TILE % 16 == 0, "two groups make a factor");

struct alignas(16) Four { float at[4]; };

extern "C" __global__ void __launch_bounds__(THREADS) calor_nf4_skinny(
    const Element* x, const unsigned char* codes, const float* scales,
#if CALOR_FORM
    const unsigned char* more_codes, const float* more_scales,
#endif
    Element* y,
#if CALOR_FORM == 2
    Element* more_y,
#endif
    const __grid_constant__ Words words, const unsigned* live,
    const __grid_constant__ Rules rules) {
    extern __shared__ unsigned char shared[];
    __shared__ float book[16];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int first_column = blockIdx.x * CALOR_N_TILE;
    if (thread < 16) book[thread] = BOOK[thread];
    const Weight weight[PARTS] = {
        {codes, scales},
#if CALOR_FORM
        {more_codes, more_scales},
#endif
    };
    const int k_first = warp * CHUNK + lane % 4 * 32;
    const unsigned queue = shared_address(shared);
    const auto fetch = [&](int step) {
        const int k = k_first + step * (WARPS * CHUNK);
#pragma unroll
        for (int j = 0; j < GROUPS; ++j) {
            const int n = first_column + j % OWN_GROUPS * 8 + lane / 4;
            const bool there = n < CALOR_N && k < CALOR_K;
            const Weight& of = weight[j / OWN_GROUPS];
            const unsigned at = there ? (unsigned)n * (CALOR_K / 32) + k / 32 : 0;
            const unsigned to = queue + step % STAGES * STAGE_BYTES + j * (THREADS * 20);
            copy_async<16>(to + thread * 16, of.codes + at * 16ull, there);
            copy_async<4>(to + THREADS * 16 + thread * 4, of.scales + at / 2, there);
        }
    };
#if CALOR_EARLY == 0
    let_next_start();
    wait_for_previous();
#endif
#pragma unroll
    for (int step = 0; step < STAGES; ++step) {
        if (step < STEPS) fetch(step);
        copies_commit();
    }
#if CALOR_EARLY
    let_next_start();
    wait_for_previous();
#endif
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const long long x_stride = words.w[1];
    uint4 rows[AHEAD][ROW_TILES];
    // Quarter `quarter` of all: eight elements of each of the lane's rows.
    const auto fetch_rows = [&](uint4 (&to)[ROW_TILES], int quarter) {
        const int k = k_first + quarter / 4 * (WARPS * CHUNK) + quarter % 4 * 8;
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i) {
            const int row = lane / 4 + i * 8;
            to[i] = uint4{0, 0, 0, 0};
            if (row < m && k < CALOR_K) to[i] = *(const uint4*)(x + row * x_stride + k);
        }
    };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) fetch_rows(rows[i], i);
    __syncthreads();  // The book is there.

    float sums[ROW_TILES][PAIRS][4] = {};
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        copies_wait<STAGES - 1>();
        const unsigned char* from = shared + step % STAGES * STAGE_BYTES;
        float scale[GROUPS];
        uint4 all[GROUPS];
#pragma unroll
        for (int j = 0; j < GROUPS; ++j) {
            all[j] = *(const uint4*)(from + j * (THREADS * 20) + thread * 16);
            scale[j] = *(const float*)(from + j * (THREADS * 20) + THREADS * 16 + thread * 4);
        }
#pragma unroll
        for (int q = 0; q < 4; ++q) {
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) {
                unsigned w[2][4];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const uint4 of = all[j * 2 + e];
                    unpack(w[e], q == 0 ? of.x : q == 1 ? of.y : q == 2 ? of.z : of.w,
                           scale[j * 2 + e], book);
                }
#pragma unroll
                for (int i = 0; i < ROW_TILES; ++i) {
                    const uint4 r = rows[q % AHEAD][i];
                    multiply(sums[i][j], w[0][0], w[1][0], w[0][1], w[1][1], r.x, r.y);
                    multiply(sums[i][j], w[0][2], w[1][2], w[0][3], w[1][3], r.z, r.w);
                }
            }
            fetch_rows(rows[q % AHEAD], step * 4 + q + AHEAD);
        }
        if (step + STAGES < STEPS) fetch(step + STAGES);
        copies_commit();
    }
    copies_wait<0>();
    // Nobody reads the queue any more: it becomes the place where the warps' sums meet.
    __syncthreads();
    Four* const meeting = (Four*)shared;
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
        for (int j = 0; j < PAIRS; ++j)
            meeting[((warp * ROW_TILES + i) * PAIRS + j) * 32 + lane] =
                Four{{sums[i][j][0], sums[i][j][1], sums[i][j][2], sums[i][j][3]}};
    __syncthreads();
    const auto meet = [&](int at) {
        Four all = meeting[at];
#pragma unroll
        for (int w = 1; w < WARPS; ++w) {
            const Four one = meeting[w * (ROW_TILES * PAIRS * 32) + at];
#pragma unroll
            for (int e = 0; e < 4; ++e) all.at[e] += one.at[e];
        }
        return all;
    };
    for (int item = thread; item < ROW_TILES * OWN_PAIRS * 32; item += THREADS) {
        const int tile = item / (OWN_PAIRS * 32), j = item / 32 % OWN_PAIRS;
        const int at = (tile * PAIRS + j) * 32 + item % 32;
        Four own = meet(at);
#if CALOR_FORM
        const Four more = meet(at + OWN_PAIRS * 32);
#endif
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int column = first_column + j * 16 + item % 32 / 4 + e / 2 * 8;
            const int row = tile * 8 + item % 4 * 2 + e % 2;
            if (m <= row || CALOR_N <= column) continue;
#if CALOR_FORM == 1
            y[row * words.w[2] + column] = element_of(gated(own.at[e], more.at[e]));
#else
            y[row * words.w[2] + column] = element_of(own.at[e]);
#endif
#if CALOR_FORM == 2
            more_y[row * words.w[3] + column] = element_of(more.at[e]);
#endif
        }
    }
}
