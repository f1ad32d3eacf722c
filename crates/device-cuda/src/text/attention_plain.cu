// Interval attention in f32 arithmetic: each query row against the keys lo <= j < hi and, with
// CALOR_EXTRA, one key more, in one softmax. Every type, head size and form.
//
// Macros, all integers except CALOR_SCALE:
//   CALOR_TYPE      0 = f32, 1 = f16, 2 = bf16 (from sm_80)
//   CALOR_HEADS, CALOR_KV_HEADS   query heads, a multiple of the key heads
//   CALOR_D         head size, 1 to 256
//   CALOR_SCALE     float literal, factor of the scores
//   CALOR_EXTRA, CALOR_BIAS, CALOR_LSE   0 or 1: one more buffer each
//   CALOR_REACH     the distance table has 2 * CALOR_REACH + 1 rows (0 without a table)
//   CALOR_PDL       1: dependent launch (from sm_90)
//
// Buffers: q, k, v, lo, hi, extra if CALOR_EXTRA, bias if CALOR_BIAS, out, lse if CALOR_LSE.
// Words: query rows, key rows, and the strides in elements of the rows of q, k and v.
// Nothing is asked of addresses and strides beyond the alignment of an element.
// A block of 4 warps serves BM = 4 * R query rows of one head, R = CALOR_D <= 128 ? 8 : 2.
// Grid: (CALOR_HEADS, ceil(query rows / BM)), block: 128 threads, no dynamic shared memory.

#if CALOR_TYPE < 0 || 2 < CALOR_TYPE
#error "the types are f32, f16 and bf16"
#endif
#if CALOR_D < 1 || 256 < CALOR_D
#error "the head size is 1 to 256"
#endif
#if CALOR_HEADS % CALOR_KV_HEADS != 0
#error "the heads are no multiple of the key heads"
#endif

#if CALOR_TYPE == 0
typedef float Element;
#else
typedef unsigned short Element;
#endif

struct Words { long long w[5]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[5]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

__device__ inline float widen(Element x) {
#if CALOR_TYPE == 0
    return x;
#elif CALOR_TYPE == 1
    float to;
    asm("cvt.f32.f16 %0, %1;" : "=f"(to) : "h"(x));
    return to;
#else
    return __uint_as_float((unsigned)x << 16);
#endif
}
__device__ inline Element narrow(float x) {
#if CALOR_TYPE == 0
    return x;
#elif CALOR_TYPE == 1
    Element to;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to) : "f"(x));
    return to;
#else
    const unsigned bits = __float_as_uint(x);
    // To nearest, ties to even; a value that is no number keeps a set bit.
    if (x != x) return (Element)((bits >> 16) | 0x40);
    return (Element)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
}

constexpr int D = CALOR_D;
constexpr int WARPS = 4;
constexpr int R = D <= 128 ? 8 : 2;  // Query rows of a warp.
constexpr int BM = WARPS * R;
constexpr int BN = 32;               // A lane has one key.
constexpr int THREADS = 32 * WARPS;
constexpr int D4 = (D + 3) / 4 * 4;
// An odd number of 16-byte chunks: eight lanes with a row each lie in different banks.
constexpr int K_STRIDE = D4 / 4 % 2 == 0 ? D4 + 4 : D4;
constexpr int COLUMNS = (D + 31) / 32;  // Columns of a lane.
constexpr int NOWHERE = 0x7fffffff;

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000u); }

__device__ inline float warp_max(float x) {
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
__device__ inline int warp_min(int x) {
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2) {
        const int other = __shfl_xor_sync(0xffffffffu, x, distance);
        x = other < x ? other : x;
    }
    return x;
}

// The tile's rows [key0, key0 + BN) as f32, zeros from `end` on and beyond the head size.
__device__ inline void load_tile(float* tile, const Element* rows, long long stride, int key0,
                                 int end) {
    for (int index = (int)threadIdx.x; index < BN * D4; index += THREADS) {
        const int row = index / D4, column = index % D4;
        const bool there = key0 + row < end && column < D;
        tile[row * K_STRIDE + column] =
            there ? widen(rows[(key0 + row) * stride + column]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) calor_attention_plain(
    const Element* q, const Element* k, const Element* v, const int* lo, const int* hi,
#if CALOR_EXTRA
    const int* extra,
#endif
#if CALOR_BIAS
    const float* bias,
#endif
    Element* out,
#if CALOR_LSE
    float* lse,
#endif
    const __grid_constant__ Words words, const unsigned* live,
    const __grid_constant__ Rules rules) {
    __shared__ __align__(16) float q_tile[BM][D4];
    __shared__ __align__(16) float tile[BN * K_STRIDE];  // Keys, then their values.
    __shared__ __align__(16) float weights[WARPS][BN][R];
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int head = (int)blockIdx.x;
    // Under a causal mask the last rows see most keys: they start first.
    const int row0 = (int)(gridDim.y - 1 - blockIdx.y) * BM;
    const int tq = (int)live_word(words.w[0], rules.at[0], live);
    const int tk = (int)live_word(words.w[1], rules.at[1], live);
    const long long stride_q = live_word(words.w[2], rules.at[2], live);
    const long long stride_k = live_word(words.w[3], rules.at[3], live);
    const long long stride_v = live_word(words.w[4], rules.at[4], live);
    if (tq <= row0) return;
    const Element* const k_rows = k + head / (CALOR_HEADS / CALOR_KV_HEADS) * D;
    const Element* const v_rows = v + head / (CALOR_HEADS / CALOR_KV_HEADS) * D;

    for (int index = thread; index < BM * D4; index += THREADS) {
        const int row = index / D4, column = index % D4;
        const bool there = row0 + row < tq && column < D;
        q_tile[row][column] =
            there ? widen(q[(row0 + row) * stride_q + head * D + column]) : 0.0f;
    }

    // Each lane keeps the interval of one row of the block, cut to the keys that are there.
    int lane_from = 0, lane_to = 0;
    if (lane < BM && row0 + lane < tq && 0 < tk) {
        lane_from = lo[row0 + lane];
        lane_to = hi[row0 + lane];
        lane_from = lane_from < 0 ? 0 : tk < lane_from ? tk : lane_from;
        lane_to = lane_to < lane_from ? lane_from : tk < lane_to ? tk : lane_to;
    }
    const int end = -warp_min(-lane_to);
    int from[R], to[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        from[r] = __shfl_sync(0xffffffffu, lane_from, warp * R + r);
        to[r] = __shfl_sync(0xffffffffu, lane_to, warp * R + r);
    }

    float mixed[R][COLUMNS], top[R], sum[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        top[r] = minus_infinity();
        sum[r] = 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) mixed[r][c] = 0.0f;
    }

    const auto distance_bias = [&](int key, int row) {
#if CALOR_BIAS
        int distance = key - row;
        distance = distance < -CALOR_REACH ? -CALOR_REACH : distance;
        distance = CALOR_REACH < distance ? CALOR_REACH : distance;
        return bias[(long long)(distance + CALOR_REACH) * CALOR_HEADS + head];
#else
        return 0.0f;
#endif
    };

#if CALOR_EXTRA
    // The softmax starts with the extra keys: their score is the first reference value.
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; ++r) {
        const int row = row0 + warp * R + r;
        const int key = row < tq ? extra[row] : -1;
        if (key < 0 || tk <= key || (from[r] <= key && key < to[r])) continue;
        float dot = 0.0f;
        for (int column = lane; column < D; column += 32)
            dot = fmaf(q_tile[warp * R + r][column], widen(k_rows[key * stride_k + column]), dot);
        top[r] = warp_sum(dot) * CALOR_SCALE + distance_bias(key, row);
        sum[r] = 1.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            if (c * 32 + lane < D) mixed[r][c] = widen(v_rows[key * stride_v + c * 32 + lane]);
    }
#endif

    // The first key from `key` on that some row of the block sees.
    const auto next_seen = [&](int key) {
        const int first = lane_from < key ? key : lane_from;
        return warp_min(first < lane_to ? first : NOWHERE);
    };
    for (int key0 = next_seen(0); key0 < end; key0 = next_seen(key0 + BN)) {
        __syncthreads();
        load_tile(tile, k_rows, stride_k, key0, end);
        __syncthreads();
        float score[R];
#pragma unroll
        for (int r = 0; r < R; ++r) score[r] = 0.0f;
#pragma unroll 4
        for (int column = 0; column < D4; column += 4) {
            const float4 key = *(const float4*)(tile + lane * K_STRIDE + column);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const float4 query = *(const float4*)&q_tile[warp * R + r][column];
                score[r] = fmaf(query.x, key.x, score[r]);
                score[r] = fmaf(query.y, key.y, score[r]);
                score[r] = fmaf(query.z, key.z, score[r]);
                score[r] = fmaf(query.w, key.w, score[r]);
            }
        }
        const int key = key0 + lane;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            float weight = 0.0f;
            const bool seen = from[r] <= key && key < to[r];
            float x = score[r] * CALOR_SCALE;
            if (CALOR_BIAS && seen) x += distance_bias(key, row0 + warp * R + r);
            x = seen ? x : minus_infinity();
            const float largest = fmaxf(top[r], warp_max(x));
            if (largest != minus_infinity()) {
                const float factor = expf(top[r] - largest);
                weight = expf(x - largest);
                sum[r] = sum[r] * factor + warp_sum(weight);
                top[r] = largest;
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) mixed[r][c] *= factor;
            }
            weights[warp][lane][r] = weight;
        }
        __syncthreads();
        load_tile(tile, v_rows, stride_v, key0, end);
        __syncthreads();
        const int key_count = end - key0 < BN ? end - key0 : BN;
        for (int j = 0; j < key_count; ++j) {
            float value[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
                value[c] = c * 32 + lane < D ? tile[j * K_STRIDE + c * 32 + lane] : 0.0f;
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const float weight = weights[warp][j][r];
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c)
                    mixed[r][c] = fmaf(weight, value[c], mixed[r][c]);
            }
        }
    }

#pragma unroll
    for (int r = 0; r < R; ++r) {
        const int row = row0 + warp * R + r;
        if (tq <= row) break;
        const float factor = sum[r] == 0.0f ? 0.0f : 1.0f / sum[r];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            if (c * 32 + lane < D)
                out[((long long)row * CALOR_HEADS + head) * D + c * 32 + lane] =
                    narrow(mixed[r][c] * factor);
#if CALOR_LSE
        if (lane == 0)
            lse[(long long)row * CALOR_HEADS + head] =
                sum[r] == 0.0f ? minus_infinity() : top[r] + logf(sum[r]);
#endif
    }
}
