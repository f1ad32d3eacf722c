// Products with weights of four bits by f32 multiply-adds, for any extents and alignment: the form
// for f32 and for what the tensor cores' forms refuse. See nf4.cu.
//
// Macros: CALOR_LANE_ROWS, rows of a thread: a block has 16 times as many.
// Launch: 256 threads, ceil(columns / 64) blocks along x, ceil(m / (16 * LANE_ROWS)) along y.

constexpr int LANE_ROWS = CALOR_LANE_ROWS, ROWS = 16 * LANE_ROWS, COLUMNS = 64, DEPTH = 16;

__device__ inline float weight_at(const Weight& weight, unsigned n, unsigned k) {
    if (CALOR_N <= n || CALOR_K <= k) return 0.0f;
    const unsigned at = n * CALOR_K + k;
    const unsigned code = weight.codes[at / 2] >> (at % 2 ? 0 : 4) & 15;
    return value_of(element_of(BOOK[code] * weight.scales[at / 64]));
}

extern "C" __global__ void __launch_bounds__(256) calor_nf4_plain(
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
    __shared__ float rows[DEPTH][ROWS + 1];
    __shared__ float weights[PARTS][DEPTH][COLUMNS + 1];
    let_next_start();
    wait_for_previous();
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const int first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
    if (m <= first_row) return;
    const Weight weight[PARTS] = {
        {codes, scales},
#if CALOR_FORM
        {more_codes, more_scales},
#endif
    };
    const int thread = threadIdx.x, lane_row = thread / 16, lane_column = thread % 16;
    float sums[PARTS][LANE_ROWS][4] = {};
#pragma unroll 1
    for (unsigned first = 0; first < SUM_LENGTH; first += DEPTH) {
#pragma unroll
        for (int i = 0; i < LANE_ROWS; ++i) {
            const int row = lane_row + i * 16;
            const unsigned at = first + lane_column;
            const bool there = first_row + row < m && at < SUM_LENGTH;
            rows[lane_column][row] =
                there ? value_of(x[(first_row + row) * words.w[1] + at]) : 0.0f;
        }
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#if CALOR_TRANSPOSED
                const int depth = thread / 64 + i * 4, column = thread % 64;
                const float w = weight_at(weight[part], first + depth, first_column + column);
#else
                const int depth = lane_column, column = lane_row + i * 16;
                const float w = weight_at(weight[part], first_column + column, first + depth);
#endif
                weights[part][depth][column] = w;
            }
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < DEPTH; ++depth) {
            float a[LANE_ROWS];
#pragma unroll
            for (int i = 0; i < LANE_ROWS; ++i) a[i] = rows[depth][lane_row + i * 16];
#pragma unroll
            for (int part = 0; part < PARTS; ++part)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const float w = weights[part][depth][lane_column + j * 16];
#pragma unroll
                    for (int i = 0; i < LANE_ROWS; ++i)
                        sums[part][i][j] = fmaf(a[i], w, sums[part][i][j]);
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < LANE_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int row = first_row + lane_row + i * 16;
            const unsigned column = first_column + lane_column + j * 16;
            if (m <= row || COLUMNS_ALL <= column) continue;
#if CALOR_FORM == 1
            y[row * words.w[2] + column] = element_of(gated(sums[0][i][j], sums[1][i][j]));
#else
            y[row * words.w[2] + column] = element_of(sums[0][i][j]);
#endif
#if CALOR_FORM == 2
            more_y[row * words.w[3] + column] = element_of(sums[1][i][j]);
#endif
        }
}
