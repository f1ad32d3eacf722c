// Products with weights of four bits by `mma.sync`, or by Hopper's warpgroup products. See nf4.cu.
//
// Rows of x come by asynchronous copies in stages. A step takes 64 elements of the sum: the codes
// of the next step wait in registers while the tensor cores work, and are unpacked into one of two
// tiles of f16 or bf16. Warpgroup products run on their own, so there the codes of a step are
// unpacked while those of the step before are multiplied; a third tile keeps the two apart.
//
// Macros
//   CALOR_WARPGROUPS                      0: `mma.sync`. Above: groups of four warps below each
//                                         other; WARPS_M is four times that, WARPS_N 1,
//                                         WARP_COLUMNS 128 (sm_90a)
//   CALOR_WARPS_M, CALOR_WARPS_N          warps below and beside each other
//   CALOR_WARP_ROWS, CALOR_WARP_COLUMNS   part of one warp: multiples of 16, and with two weights
//                                         of 32, since a warp has the same columns of both
//   CALOR_STAGES                          stages of rows; 2 before sm_80; warpgroups need 3
//   CALOR_BAND                            rows of tiles that are walked together, for L2
//   CALOR_SPLIT                           1, 2, 4, 8: blocks of a cluster that share the sum of one
//                                         tile (above 1: sm_90); each adds up its part of the tile
// K is a multiple of 64, N of 8. Bases and the stride of x are multiples of 16 bytes, strides of
// results of 4 elements.
// Launch, with ROWS = WARPS_M * WARP_ROWS and COLUMNS = WARPS_N * WARP_COLUMNS:
//   32 * WARPS_M * WARPS_N threads, SPLIT * ceil(m / ROWS) * ceil(PARTS * columns / COLUMNS)
//   blocks; the cluster is in the code;
//   (STAGES * ROWS + 2 * COLUMNS) * 128 bytes of dynamic shared memory; with warpgroups
//   (STAGES * ROWS + 3 * COLUMNS) * 128 + 1024.

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
// Tiles of unpacked weights, and steps whose rows are on their way: a stage is read a step longer
// where products run on their own.
constexpr int TILES = CALOR_WARPGROUPS ? 3 : 2, AHEAD = CALOR_STAGES - (CALOR_WARPGROUPS ? 2 : 1);
static_assert(CALOR_N % 8 == 0 && CALOR_K % 64 == 0, "odd extents need nf4_plain");
static_assert(ROWS % LINES == 0 && PIECES * THREADS == COLUMNS * 2, "threads share evenly");
static_assert(WARP_OWN % 16 == 0, "a warp stores sixteen columns at a time");
static_assert(CALOR_SPLIT <= STEPS, "each block of a cluster has a step");

#if CALOR_WARPGROUPS
static_assert(CALOR_WARPS_M == 4 * CALOR_WARPGROUPS && COLUMNS == 128, "a group has every column");

#if CALOR_TYPE == 1
#define GROUP_KINDS "k16.f32.f16.f16"
#else
#define GROUP_KINDS "k16.f32.bf16.bf16"
#endif
#if CALOR_TRANSPOSED
#define GROUP_SIGNS "1, 1, 0, 1"
#else
#define GROUP_SIGNS "1, 1, 0, 0"
#endif
#define SUMS_4(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define SUMS_16(j) SUMS_4(j), SUMS_4(j + 1), SUMS_4(j + 2), SUMS_4(j + 3)

// 64 rows times 128 columns, sixteen elements of the sum.
__device__ inline void group_multiply(float (&d)[BLOCKS_N][4], unsigned long long a,
                                      unsigned long long w, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128" GROUP_KINDS
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, "
        "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, "
        "%55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, " GROUP_SIGNS ";\n}"
        : SUMS_16(0), SUMS_16(4), SUMS_16(8), SUMS_16(12)
        : "l"(a), "l"(w), "r"(add));
}
// Lines of 128 bytes, swizzled in atoms of eight lines; LEADING bytes from 64 columns to the next
// where a line holds columns.
__device__ inline unsigned long long descriptor(unsigned address, unsigned leading) {
    return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(leading >> 4) << 16
        | 64ull << 32 | 1ull << 62;
}
#endif

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

#if 1 < CALOR_SPLIT
__device__ inline void cluster_meet() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ inline float2 load_of(unsigned address, int rank) {
    float2 x;
    asm volatile("{\n.reg .u32 there;\nmapa.shared::cluster.u32 there, %2, %3;\n"
                 "ld.shared::cluster.v2.f32 {%0, %1}, [there];\n}"
                 : "=f"(x.x), "=f"(x.y)
                 : "r"(address), "r"(rank)
                 : "memory");
    return x;
}
#define CLUSTER __cluster_dims__(CALOR_SPLIT, 1, 1)
#else
#define CLUSTER
#endif

extern "C" __global__ void CLUSTER __launch_bounds__(THREADS) calor_nf4_mma(
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
    if (thread < 16) book[thread] = BOOK[thread];
    let_next_start();
    wait_for_previous();
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const int tiles_m = (m + ROWS - 1) / ROWS;
    const int turn = blockIdx.x / CALOR_SPLIT, rank = blockIdx.x % CALOR_SPLIT;
    if (tiles_m * TILES_N <= turn) return;
    // Bands of rows of tiles, down first and then across, so that the blocks at work at a time
    // share few rows of x and few weights.
    const int band = turn / (CALOR_BAND * TILES_N);
    const int in_band = turn - band * (CALOR_BAND * TILES_N);
    const int left = tiles_m - band * CALOR_BAND;
    const int height = left < CALOR_BAND ? left : CALOR_BAND;
    const int across = in_band / height;
    const int first_row = (band * CALOR_BAND + in_band - across * height) * ROWS;
    const int first_column = across * OWN_COLUMNS;
    const int first_step = STEPS * rank / CALOR_SPLIT, end = STEPS * (rank + 1) / CALOR_SPLIT;
#if CALOR_WARPGROUPS
    const unsigned base = (shared_address(shared) + 1023) / 1024 * 1024;  // Whole atoms.
#else
    const unsigned base = shared_address(shared);
#endif

    // A line is eight pieces of 16 bytes; piece p of row r lies at place p ^ r % 8, so that eight
    // rows of one piece fall into all banks. A thread brings one piece of every THREADS / 8 rows.
    const int piece = thread % 8, own_row = thread / 8;
    const unsigned place = base + own_row * LINE_BYTES + ((piece ^ own_row % 8) << 4);
    const long long x_stride = words.w[1];
    const Element* x_from = x + (first_row + own_row) * x_stride + first_step * LINE + piece * 8;
    const int rows_left = m - first_row - own_row;
    int sum_left = (int)SUM_LENGTH - first_step * LINE - piece * 8;
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
    const int warp_column = warp / CALOR_WARPS_M * CALOR_WARP_COLUMNS;
    // Sixteen rows of this warp: a group takes 64 at a time.
    const auto rows_at = [&](int i) {
        return CALOR_WARPGROUPS ? (warp / 4 * BLOCKS_M + i) * 64 + warp % 4 * 16
                                : warp % CALOR_WARPS_M * CALOR_WARP_ROWS + i * 16;
    };
    const unsigned tiles = base + CALOR_STAGES * STAGE_BYTES;
    fetch_codes(first_step);
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) {
        if (first_step + step < end) fetch_rows();
        copies_commit();
    }
    __syncthreads();  // The book is there.
    unsigned read = 0, put = 0;
#pragma unroll 1
    for (int step = first_step; step < end; ++step) {
        const unsigned tile = tiles + put;
        put = put == (TILES - 1) * TILE_BYTES ? 0 : put + TILE_BYTES;
        // This tile was read TILES steps ago, and everybody has passed a barrier since.
        put_codes(tile);
        if (step + 1 < end) fetch_codes(step + 1);
        copies_wait<AHEAD - 1>();
        const unsigned at = base + read;
        read = read == (CALOR_STAGES - 1) * STAGE_BYTES ? 0 : read + STAGE_BYTES;
#if CALOR_WARPGROUPS
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int part = 0; part < LINE / 16; ++part)
#pragma unroll
            for (int i = 0; i < BLOCKS_M; ++i) {
                const int group_row = (warp / 4 * BLOCKS_M + i) * 64;
                const unsigned from = tile + part * (CALOR_TRANSPOSED ? 16 * LINE_BYTES : 32);
                group_multiply(sums[i], descriptor(at + group_row * LINE_BYTES + part * 32, 16),
                               descriptor(from, CALOR_TRANSPOSED ? LINE * LINE_BYTES : 16),
                               step + part != first_step);
            }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        // The stage that was read two steps before is free by now.
        if (step + AHEAD < end) fetch_rows();
        copies_commit();
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
#else
        __syncthreads();
        // The stage that was read in the step before is free by now.
        if (step + AHEAD < end) fetch_rows();
        copies_commit();
        const int corner = lane / 8, line = lane % 8;
#pragma unroll
        for (int part = 0; part < LINE / 16; ++part) {
            unsigned a[BLOCKS_M][4], w[BLOCKS_N / 2][4];
#pragma unroll
            for (int i = 0; i < BLOCKS_M; ++i) {
                const int row = rows_at(i) + (corner & 1) * 8 + line;
                const int place = part * 2 + (corner >> 1) ^ line;
                matrices_load(a[i], at + row * LINE_BYTES + (place << 4));
            }
#pragma unroll
            for (int j = 0; j < BLOCKS_N / 2; ++j) {
#if CALOR_TRANSPOSED
                const int column = warp_column + j * 16 + (corner >> 1) * 8;
                const int row = column / LINE * LINE + part * 16 + (corner & 1) * 8 + line;
                const int place = column % LINE / 8 ^ line;
                matrices_load_transposed(w[j], tile + row * LINE_BYTES + (place << 4));
#else
                const int row = warp_column + j * 16 + (corner >> 1) * 8 + line;
                const int place = part * 2 + (corner & 1) ^ line;
                matrices_load(w[j], tile + row * LINE_BYTES + (place << 4));
#endif
            }
#pragma unroll
            for (int i = 0; i < BLOCKS_M; ++i)
#pragma unroll
                for (int j = 0; j < BLOCKS_N; ++j)
                    multiply(sums[i][j], a[i][0], a[i][1], a[i][2], a[i][3], w[j / 2][j % 2 * 2],
                             w[j / 2][j % 2 * 2 + 1]);
        }
#endif
    }
#if CALOR_WARPGROUPS
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
#if 1 < CALOR_SPLIT
    // Nobody reads stages or tiles any more: they become the place where the blocks' sums meet.
    copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < BLOCKS_M; ++i)
#pragma unroll
        for (int j = 0; j < BLOCKS_N; ++j)
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};"
                         ::"r"(base + ((i * BLOCKS_N + j) * THREADS + thread) * 16),
                         "f"(sums[i][j][0]), "f"(sums[i][j][1]), "f"(sums[i][j][2]),
                         "f"(sums[i][j][3])
                         : "memory");
    cluster_meet();
#endif
    // Two columns of a block of eight, of every block of the cluster.
    const auto sum_of = [&](float (&to)[2], int i, int j, int half) {
#if 1 < CALOR_SPLIT
        to[0] = to[1] = 0.0f;
#pragma unroll
        for (int other = 0; other < CALOR_SPLIT; ++other) {
            const unsigned there = base + ((i * BLOCKS_N + j) * THREADS + thread) * 16 + half * 8;
            const float2 x = load_of(there, other);
            to[0] += x.x;
            to[1] += x.y;
        }
#else
        to[0] = sums[i][j][half * 2];
        to[1] = sums[i][j][half * 2 + 1];
#endif
    };

    // A lane has columns lane % 4 * 2 and the next of two neighbouring eights. Lanes of a pair
    // swap halves, so that each has four columns in a row and a quad fills whole sectors.
    const bool odd = lane & 1;
    const auto store = [&](Element* to, long long stride, int row, int j,
                           const float (&own)[2][2]) {
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
            const int row = first_row + rows_at(i) + half * 8 + lane / 4;
#pragma unroll
            for (int j = 0; j < WARP_OWN / 8; j += 2) {
                if (((i * 2 + half) * (WARP_OWN / 16) + j / 2) % CALOR_SPLIT != rank) continue;
                float own[2][2];
#pragma unroll
                for (int e = 0; e < 2; ++e) sum_of(own[e], i, j + e, half);
#if CALOR_FORM
                float more[2][2];
#pragma unroll
                for (int e = 0; e < 2; ++e) sum_of(more[e], i, j + e + WARP_OWN / 8, half);
#endif
#if CALOR_FORM == 1
#pragma unroll
                for (int e = 0; e < 2; ++e)
#pragma unroll
                    for (int f = 0; f < 2; ++f) own[e][f] = gated(own[e][f], more[e][f]);
#endif
                store(y, words.w[2], row, j, own);
#if CALOR_FORM == 2
                store(more_y, words.w[3], row, j, more);
#endif
            }
        }
#if 1 < CALOR_SPLIT
    cluster_meet();  // Nobody leaves while others read its sums.
#endif
}
