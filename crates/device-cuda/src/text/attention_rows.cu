
// Interval attention for few query rows, such as one for each sequence: each against the keys
// lo <= j < hi. A block has one query row of one head, and its groups of lanes share the keys.
//
// Macros, all integers except CALOR_SCALE:
//   CALOR_TYPE      0 = f32, 1 = f16, 2 = bf16 (from sm_80)
//   CALOR_HEADS, CALOR_KV_HEADS   query heads, a multiple of the key heads
//   CALOR_D         head size, a multiple of 8, 8 to 256
//   CALOR_SCALE     float literal, factor of the scores
//   CALOR_PDL       1: dependent launch (from sm_90)
//
// Buffers: q, k, v, lo, hi, out. Words: query rows, key rows, and the strides in elements of the
// rows of q, k and v. Addresses and strides are whole pieces of 8 elements.
// Grid: (CALOR_HEADS, query rows). Block: 128 threads, no dynamic shared memory.

#if CALOR_D < 8 || 256 < CALOR_D || CALOR_D % 8 != 0
#error "the head size is a multiple of 8, 8 to 256"
#endif
#if CALOR_HEADS % CALOR_KV_HEADS != 0
#error "the heads are no multiple of the key heads"
#endif

constexpr int D = CALOR_D;
constexpr int THREADS = 128;
// Lanes that share a key: each has eight of its elements.
constexpr int PIECES = D / 8;
constexpr int GROUP = PIECES <= 1 ? 1 : PIECES <= 2 ? 2 : PIECES <= 4 ? 4 : PIECES <= 8 ? 8
                    : PIECES <= 16 ? 16 : 32;
// Keys at a time, and how many of them a group has in flight.
constexpr int SLOTS = THREADS / GROUP;
constexpr int AHEAD = 4;

typedef Pack<Element, 8> Piece;

extern "C" __global__ void __launch_bounds__(THREADS) calor_attention_rows(
    const Element* q,
    const Element* k,
    const Element* v,
    const int* lo,
    const int* hi,
    Element* out,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
    __shared__ float mosts[SLOTS], sums[SLOTS], parts[SLOTS][D];
    let_next_start();
    wait_for_previous();
    const int thread = (int)threadIdx.x, slot = thread / GROUP, piece = thread % GROUP;
    const int head = (int)blockIdx.x, row = (int)blockIdx.y;
    const int tq = (int)live_word(words.w[0], rules.at[0], live);
    const int tk = (int)live_word(words.w[1], rules.at[1], live);
    if (tq <= row) return;
    const long long stride_q = live_word(words.w[2], rules.at[2], live);
    const long long stride_k = live_word(words.w[3], rules.at[3], live);
    const long long stride_v = live_word(words.w[4], rules.at[4], live);
    const int kv_head = head / (CALOR_HEADS / CALOR_KV_HEADS);
    const bool has_piece = piece < PIECES;
    const int column = has_piece ? 8 * piece : 0;
    const Element* const keys = k + kv_head * D + column;
    const Element* const values = v + kv_head * D + column;
    const int low = __ldcg(lo + row);
    const int from = low < 0 ? 0 : low, to = least(__ldcg(hi + row), tk);

    // Powers of two take one instruction.
    constexpr float SCALE = CALOR_SCALE * 1.4426950408889634f;
    float query[8], sum_of[8];
    const Piece q_piece = load_shared_by_kernels<Element, 8>(q + row * stride_q + head * D + column);
#pragma unroll
    for (int i = 0; i < 8; i += 1) {
        query[i] = has_piece ? value_of(q_piece.at[i]) * SCALE : 0.0f;
        sum_of[i] = 0.0f;
    }
    const float lowest = __uint_as_float(0xff800000u);
    float most = lowest, sum = 0.0f;
    for (int base = from; base < to; base += SLOTS * AHEAD) {
        Piece key[AHEAD], value[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i += 1) {
            // Past the end is a key that is there, and counts nothing.
            const long long at = least(base + i * SLOTS + slot, to - 1);
            key[i] = load_shared_by_kernels<Element, 8>(keys + at * stride_k);
            value[i] = load_shared_by_kernels<Element, 8>(values + at * stride_v);
        }
        float score[AHEAD], peak = most;
#pragma unroll
        for (int i = 0; i < AHEAD; i += 1) {
            float dot = 0.0f;
#pragma unroll
            for (int c = 0; c < 8; c += 1) dot = fmaf(query[c], value_of(key[i].at[c]), dot);
#pragma unroll
            for (int distance = GROUP / 2; 0 < distance; distance /= 2)
                dot += __shfl_xor_sync(0xffffffffu, dot, distance);
            score[i] = base + i * SLOTS + slot < to ? dot : lowest;
            peak = fmaxf(peak, score[i]);
        }
        if (peak == lowest) continue;
        const float shrink = exp2f(most - peak);
        most = peak;
        sum *= shrink;
#pragma unroll
        for (int c = 0; c < 8; c += 1) sum_of[c] *= shrink;
#pragma unroll
        for (int i = 0; i < AHEAD; i += 1) {
            const float weight = exp2f(score[i] - peak);
            sum += weight;
#pragma unroll
            for (int c = 0; c < 8; c += 1)
                sum_of[c] = fmaf(weight, value_of(value[i].at[c]), sum_of[c]);
        }
    }
    if (piece == 0) {
        mosts[slot] = most;
        sums[slot] = sum;
    }
    if (has_piece) {
#pragma unroll
        for (int c = 0; c < 8; c += 1) parts[slot][column + c] = sum_of[c];
    }
    __syncthreads();
    for (int c = thread; c < D; c += THREADS) {
        float peak = lowest, all = 0.0f, mixed = 0.0f;
#pragma unroll
        for (int it = 0; it < SLOTS; it += 1) peak = fmaxf(peak, mosts[it]);
        for (int it = 0; it < SLOTS; it += 1) {
            // A slot without keys has the lowest, and so has a row without any.
            const float weight = mosts[it] == lowest ? 0.0f : exp2f(mosts[it] - peak);
            all += weight * sums[it];
            mixed += weight * parts[it][c];
        }
        const long long place = ((long long)row * CALOR_HEADS + head) * D + c;
        out[place] = element_of(0.0f < all || all != all ? mixed / all : 0.0f);
    }
}
