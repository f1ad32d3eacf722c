// Products with weights of four bits by `mma.sync`. See nf4.cu.
//
// Rows of x come by asynchronous copies in stages. A step takes 64 elements of the sum: the codes
// of the next step wait in registers while the tensor cores work, and are unpacked into one of two
// tiles of f16 or bf16.
//
// Macros
//   CALOR_WARPS_M, CALOR_WARPS_N          warps below and beside each other
//   CALOR_WARP_ROWS, CALOR_WARP_COLUMNS   part of one warp: multiples of 16, and with two weights
//                                         of 32, since a warp has the same columns of both
//   CALOR_STAGES                          stages of rows; 2 before sm_80
//   CALOR_BAND                            rows of tiles that are walked together, for L2
// K is a multiple of 64, N of 8. Bases and the stride of x are multiples of 16 bytes, strides of
// results of 4 elements.
// Launch, with ROWS = WARPS_M * WARP_ROWS and COLUMNS = WARPS_N * WARP_COLUMNS:
//   32 * WARPS_M * WARPS_N threads, (STAGES * ROWS + 2 * COLUMNS) * 128 bytes of dynamic shared
//   memory, ceil(m / ROWS) * ceil(PARTS * columns / COLUMNS) blocks.

constexpr int LINE_BYTES = 128, LINE = 64;
constexpr int ROWS = CALOR_WARPS_M * CALOR_WARP_ROWS, COLUMNS = CALOR_WARPS_N * CALOR_WARP_COLUMNS;
constexpr int OWN_COLUMNS = COLUMNS / PARTS, WARP_OWN = CALOR_WARP_COLUMNS / PARTS;
constexpr int THREADS = 32 * CALOR_WARPS_M * CALOR_WARPS_N;
constexpr int TILES_N = (COLUMNS_ALL + OWN_COLUMNS - 1) / OWN_COLUMNS;
constexpr int STEPS = (SUM_LENGTH + LINE - 1) / LINE;
constexpr int STAGE_BYTES = ROWS * LINE_BYTES, TILE_BYTES = COLUMNS * LINE_BYTES;
constexpr int LINES = THREADS / 8;
// Pieces of 16 bytes of codes that a thread unpacks in a step.
constexpr int PIECES = COLUMNS * 2 / THREADS;
constexpr int BLOCKS_M = CALOR_WARP_ROWS / 16, BLOCKS_N = CALOR_WARP_COLUMNS / 8;
static_assert(CALOR_N % 8 == 0 && CALOR_K % 64 == 0, "odd extents need nf4_plain");
static_assert(ROWS % LINES == 0 && PIECES * THREADS == COLUMNS * 2, "threads share evenly");
static_assert(WARP_OWN % 16 == 0, "a warp stores sixteen columns at a time");

__device__ inline void matrices_load(unsigned (&to)[4], unsigned from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}
__device__ inline void matrices_load_transposed(unsigned (&to)[4], unsigned from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS) calor_nf4_mma(
    const Element* x, const unsigned char* codes, const float* scales,
#if CALOR_FORM
    const unsigned char* more_codes, const float* more_scales,
#endif
    Element* y,
#if CALOR_FORM == 2
    Element* more_y,
#endif
    const __grid_constant__ Words words, const unsigned* live, const __grid_constant__ Rules rules) {
    extern __shared__ unsigned char shared[];
    __shared__ float book[16];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    if (thread < 16) book[thread] = BOOK[thread];
    let_next_start();
    wait_for_previous();
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const int tiles_m = (m + ROWS - 1) / ROWS;
    if (tiles_m * TILES_N <= (int)blockIdx.x) return;
    // Bands of rows of tiles, down first and then across, so that the blocks at work at a time
    // share few rows of x and few weights.
    const int band = blockIdx.x / (CALOR_BAND * TILES_N);
    const int in_band = blockIdx.x - band * (CALOR_BAND * TILES_N);
    const int left = tiles_m - band * CALOR_BAND;
    const int height = left < CALOR_BAND ? left : CALOR_BAND;
    const int across = in_band / height;
    const int first_row = (band * CALOR_BAND + in_band - across * height) * ROWS;
    const int first_column = across * OWN_COLUMNS;
    const unsigned base = shared_address(shared);

    // A line is eight pieces of 16 bytes; piece p of row r lies at place p ^ r % 8, so that eight
    // rows of one piece fall into all banks. A thread brings one piece of every THREADS / 8 rows.
    const int piece = thread % 8, own_row = thread / 8;
    const unsigned place = base + own_row * LINE_BYTES + ((piece ^ own_row % 8) << 4);
    const long long x_stride = words.w[1];
    const Element* x_from = x + (first_row + own_row) * x_stride + piece * 8;
    const int rows_left = m - first_row - own_row;
    int sum_left = (int)SUM_LENGTH - piece * 8;
    unsigned fill = 0;
    const auto fetch_rows = [&]() {
#pragma unroll
        for (int i = 0; i < ROWS / LINES; ++i)
            copy_async<16>(place + fill + i * LINES * LINE_BYTES, x_from + i * LINES * x_stride,
                           i * LINES < rows_left && 0 < sum_left);
        x_from += LINE;
        sum_left -= LINE;
        fill = fill == (CALOR_STAGES - 1) * STAGE_BYTES ? 0 : fill + STAGE_BYTES;
    };

    // Half a block of codes each. As they lie: row n of the weight is a line of k, or, transposed,
    // 64 columns of a line each; lines of one step lie below each other.
    uint4 next[PIECES];
    float next_scale[PIECES];
    const auto fetch_codes = [&](int step) {
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const int at = thread + i * THREADS, line = at / 2, half = at % 2;
            const unsigned char* of_part = codes;
            const float* scales_of_part = scales;
#if CALOR_TRANSPOSED
            const int n = step * LINE + line % LINE, k = first_column + line / LINE * LINE;
#else
            // A warp's lines are first of one weight, then of the other.
            const int of_warp = line % CALOR_WARP_COLUMNS;
            const int n = first_column + line / CALOR_WARP_COLUMNS * WARP_OWN + of_warp % WARP_OWN;
            const int k = step * LINE;
#if CALOR_FORM
            if (WARP_OWN <= of_warp) {
                of_part = more_codes;
                scales_of_part = more_scales;
            }
#endif
#endif
            const unsigned block = (unsigned)n * (CALOR_K / 64) + k / 64;
            next[i] = uint4{0, 0, 0, 0};
            next_scale[i] = 0.0f;
            if (n < CALOR_N && k < CALOR_K) {
                next[i] = __ldg((const uint4*)(of_part + block * 32ull) + half);
                next_scale[i] = __ldg(scales_of_part + block);
            }
        }
    };
    const auto put_codes = [&](unsigned to) {
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const int at = thread + i * THREADS, line = at / 2, half = at % 2;
            const unsigned of_piece[4] = {next[i].x, next[i].y, next[i].z, next[i].w};
#pragma unroll
            for (int p = 0; p < 4; ++p) {
                unsigned w[4];
                unpack(w, of_piece[p], next_scale[i], book);
                const unsigned there = to + line * LINE_BYTES + ((half * 4 + p ^ line % 8) << 4);
                asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(there), "r"(w[0]),
                             "r"(w[1]), "r"(w[2]), "r"(w[3])
                             : "memory");
            }
        }
    };

    float sums[BLOCKS_M][BLOCKS_N][4] = {};
    const int warp_row = warp % CALOR_WARPS_M * CALOR_WARP_ROWS;
    const int warp_column = warp / CALOR_WARPS_M * CALOR_WARP_COLUMNS;
    const int corner = lane / 8, line = lane % 8;
    const unsigned tiles = base + CALOR_STAGES * STAGE_BYTES;
    fetch_codes(0);
#pragma unroll
    for (int step = 0; step < CALOR_STAGES - 1; ++step) {
        if (step < STEPS) fetch_rows();
        copies_commit();
    }
    __syncthreads();  // The book is there.
    unsigned read = 0;
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        const unsigned tile = tiles + step % 2 * TILE_BYTES;
        // This tile was read two steps ago, and everybody has passed a barrier since.
        put_codes(tile);
        if (step + 1 < STEPS) fetch_codes(step + 1);
        copies_wait<CALOR_STAGES - 2>();
        __syncthreads();
        // The stage that was read in the step before is free by now.
        if (step + CALOR_STAGES - 1 < STEPS) fetch_rows();
        copies_commit();
        const unsigned at = base + read;
        read = read == (CALOR_STAGES - 1) * STAGE_BYTES ? 0 : read + STAGE_BYTES;
#pragma unroll
        for (int part = 0; part < LINE / 16; ++part) {
            unsigned a[BLOCKS_M][4], w[BLOCKS_N / 2][4];
#pragma unroll
            for (int i = 0; i < BLOCKS_M; ++i) {
                const int row = warp_row + i * 16 + (corner & 1) * 8 + line;
                matrices_load(a[i], at + row * LINE_BYTES + ((part * 2 + (corner >> 1) ^ line) << 4));
            }
#pragma unroll
            for (int j = 0; j < BLOCKS_N / 2; ++j) {
#if CALOR_TRANSPOSED
                const int column = warp_column + j * 16 + (corner >> 1) * 8;
                const int row = column / LINE * LINE + part * 16 + (corner & 1) * 8 + line;
                matrices_load_transposed(
                    w[j], tile + row * LINE_BYTES + ((column % LINE / 8 ^ line) << 4));
#else
                const int row = warp_column + j * 16 + (corner >> 1) * 8 + line;
                matrices_load(w[j], tile + row * LINE_BYTES + ((part * 2 + (corner & 1) ^ line) << 4));
#endif
            }
#pragma unroll
            for (int i = 0; i < BLOCKS_M; ++i)
#pragma unroll
                for (int j = 0; j < BLOCKS_N; ++j)
                    multiply(sums[i][j], a[i][0], a[i][1], a[i][2], a[i][3], w[j / 2][j % 2 * 2],
                             w[j / 2][j % 2 * 2 + 1]);
        }
    }

    // A lane has columns lane % 4 * 2 and the next of two neighbouring eights. Lanes of a pair
    // swap halves, so that each has four columns in a row and a quad fills whole sectors.
    const bool odd = lane & 1;
    const auto store = [&](Element* to, long long stride, int row, int j, const float (&own)[2][2]) {
        float v[4];
#pragma unroll
        for (int f = 0; f < 2; ++f) {
            const float got = __shfl_xor_sync(0xffffffffu, odd ? own[0][f] : own[1][f], 1);
            v[f] = odd ? got : own[0][f];
            v[2 + f] = odd ? own[1][f] : got;
        }
        const int column = first_column + warp_column / PARTS + (j + odd) * 8 + lane % 4 / 2 * 4;
        if (row < m && column < (int)COLUMNS_ALL)
            *(uint2*)(to + row * stride + column) = uint2{pair_of(v[0], v[1]), pair_of(v[2], v[3])};
    };
#pragma unroll
    for (int i = 0; i < BLOCKS_M; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int j = 0; j < WARP_OWN / 8; j += 2) {
                float own[2][2], more[2][2];
#pragma unroll
                for (int e = 0; e < 2; ++e)
#pragma unroll
                    for (int f = 0; f < 2; ++f) {
                        own[e][f] = sums[i][j + e][half * 2 + f];
                        more[e][f] = sums[i][(j + e + WARP_OWN / 8) % BLOCKS_N][half * 2 + f];
#if CALOR_FORM == 1
                        own[e][f] = gated(own[e][f], more[e][f]);
#endif
                    }
                store(y, words.w[2], row, j, own);
#if CALOR_FORM == 2
                store(more_y, words.w[3], row, j, more);
#else
                (void)more;
#endif
            }
        }
}
