// Norms of rows: (x - mean) / sqrt(variance + eps) * gain + bias, or
// x / sqrt(mean of squares + eps) * gain, where x is a sum of rows. One read, everything else in
// registers; the variance is taken in a second pass over them, from the centred row.
//
// Macros:
//   CALOR_IN, CALOR_OUT, CALOR_GAIN   types of the rows, of the result, of gain and bias
//   CALOR_K        length of a row
//   CALOR_CENTRED  1: layer norm, 0: root-mean-square norm
//   CALOR_BIAS     1: a bias is added
//   CALOR_EPS      epsilon, as a float literal
//   CALOR_TERMS    1 .. 3: how many rows are added up
//   CALOR_TABLES   bit t: term t is the row of a table that an index names
//   CALOR_SUM      1: the sum is written as well, in the type of the rows
//   CALOR_WIDTH    elements that lie side by side in a thread: 8, or 1 where k is no multiple of 8
//   CALOR_PIECES   those of a thread
//   CALOR_LANES    threads of a row, a multiple of 32
//   CALOR_ROWS     rows of a block at a time
//   CALOR_EARLY    1: gain and bias are weights, and may be read before the wait
//   CALOR_PDL      1: launched with programmatic stream serialization (sm_90 and later)
//
// Buffers: for each term its rows or table, then its indices (i32, clamped into the table) if it
//   is a table; gain, [bias], result, [sum].
// Words: rows, then for each term the number of rows in its table, or 0. Everything is dense, and
//   `live` is written before the program begins.
// Grid: x at most ceil(rows / ROWS); blocks stride over what is left, with the next rows on their
//   way while the present ones are normed. Block: LANES * ROWS.

typedef Stored<CALOR_IN> In;
typedef Stored<CALOR_OUT> Out;
typedef Stored<CALOR_GAIN> Gain;

#define WIDTH CALOR_WIDTH
#define PIECES CALOR_PIECES
#define LANES CALOR_LANES
#define WARPS_OF_ROW (LANES / 32)
#define IS_TABLE(term) (CALOR_TABLES >> (term) & 1)

// The sum over the threads of a row. Two folds behind each other take different places.
__device__ inline float fold_row(float x, float (*place)[WARPS_OF_ROW]) {
    x = fold_warp(x);
    if (WARPS_OF_ROW == 1) return x;
    const int row = (int)threadIdx.x / LANES;
    if (threadIdx.x % 32 == 0) place[row][threadIdx.x % LANES / 32] = x;
    __syncthreads();
    float all = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS_OF_ROW; ++warp) all += place[row][warp];
    return all;
}

// Parts of a row of one term.
struct Part {
    Pack<In::Element, WIDTH> at[PIECES];
};

template <int TERM>
__device__ inline void load_term(Part& part, const In::Element* rows, const int* indices,
                                 long long row, long long table_rows) {
    if (IS_TABLE(TERM)) {
        const long long index = __ldcg(indices + row);
        row = index < 0 ? 0 : index < table_rows ? index : table_rows - 1;
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) {
        const int col = (piece * LANES + (int)threadIdx.x % LANES) * WIDTH;
        if (col < CALOR_K)
            part.at[piece] =
                load_shared_by_kernels<In::Element, WIDTH>(rows + row * CALOR_K + col);
    }
}

extern "C" __global__ void
__launch_bounds__(LANES * CALOR_ROWS, LANES * CALOR_ROWS <= 512 ? 2 : 1) calor_norm(
    const In::Element* rows0,
#if IS_TABLE(0)
    const int* indices0,
#endif
#if 1 < CALOR_TERMS
    const In::Element* rows1,
#if IS_TABLE(1)
    const int* indices1,
#endif
#endif
#if 2 < CALOR_TERMS
    const In::Element* rows2,
#if IS_TABLE(2)
    const int* indices2,
#endif
#endif
    const Gain::Element* gain,
#if CALOR_BIAS
    const Gain::Element* bias,
#endif
    Out::Element* result,
#if CALOR_SUM
    In::Element* sum,
#endif
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
#if !IS_TABLE(0)
    constexpr const int* indices0 = nullptr;
#endif
#if 1 < CALOR_TERMS && !IS_TABLE(1)
    constexpr const int* indices1 = nullptr;
#endif
#if 2 < CALOR_TERMS && !IS_TABLE(2)
    constexpr const int* indices2 = nullptr;
#endif
    __shared__ float places[2][CALOR_ROWS][WARPS_OF_ROW];
    const int lane = (int)threadIdx.x % LANES;
    const long long first = blockIdx.x * (long long)CALOR_ROWS;
    Pack<Gain::Element, WIDTH> gains[PIECES];
#if CALOR_BIAS
    Pack<Gain::Element, WIDTH> biases[PIECES];
#endif
    const auto load_gains = [&] {
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            const int col = (piece * LANES + lane) * WIDTH;
            if (CALOR_K <= col) continue;
            gains[piece] = *(const Pack<Gain::Element, WIDTH>*)(gain + col);
#if CALOR_BIAS
            biases[piece] = *(const Pack<Gain::Element, WIDTH>*)(bias + col);
#endif
        }
    };
    let_next_start();
#if CALOR_EARLY
    load_gains();
#endif
    const long long row_count = live_word(words.w[0], rules.at[0], live);
    wait_for_previous();
#if !CALOR_EARLY
    load_gains();
#endif

    Part parts[CALOR_TERMS] = {};
    const auto load_row = [&](long long row) {
        if (row_count <= row) return;
        load_term<0>(parts[0], rows0, indices0, row, words.w[1]);
#if 1 < CALOR_TERMS
        load_term<1>(parts[1], rows1, indices1, row, words.w[2]);
#endif
#if 2 < CALOR_TERMS
        load_term<2>(parts[2], rows2, indices2, row, words.w[3]);
#endif
    };
    const long long stride = (long long)gridDim.x * CALOR_ROWS;
    int place = 0;
    load_row(first + threadIdx.x / LANES);
    for (long long base = first; base < row_count; base += stride) {
        const long long row = base + threadIdx.x / LANES;
        float x[PIECES][WIDTH];
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                x[piece][i] = 0.0f;
                if (CALOR_K <= (piece * LANES + lane) * WIDTH) continue;
#pragma unroll
                for (int term = 0; term < CALOR_TERMS; ++term)
                    x[piece][i] += In::value_of(parts[term].at[piece].at[i]);
            }
        load_row(row + stride);
        float mean = 0.0f;
#if CALOR_CENTRED
        float total = 0.0f;
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) total += x[piece][i];
        mean = fold_row(total, places[place ^= 1]) * (1.0f / CALOR_K);
#endif
        float squares = 0.0f;
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                const float apart = x[piece][i] - mean;
                if ((piece * LANES + lane) * WIDTH < CALOR_K) squares += apart * apart;
            }
        const float variance = fold_row(squares, places[place ^= 1]) * (1.0f / CALOR_K);
        const float scale = 1.0f / sqrtf(variance + CALOR_EPS);
        if (row_count <= row) continue;
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            const int col = (piece * LANES + lane) * WIDTH;
            if (CALOR_K <= col) continue;
            Pack<Out::Element, WIDTH> out;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                float y = (x[piece][i] - mean) * scale * Gain::value_of(gains[piece].at[i]);
#if CALOR_BIAS
                y += Gain::value_of(biases[piece].at[i]);
#endif
                out.at[i] = Out::element_of(y);
            }
            *(Pack<Out::Element, WIDTH>*)(result + row * CALOR_K + col) = out;
#if CALOR_SUM
            Pack<In::Element, WIDTH> kept;
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) kept.at[i] = In::element_of(x[piece][i]);
            *(Pack<In::Element, WIDTH>*)(sum + row * CALOR_K + col) = kept;
#endif
        }
    }
}
