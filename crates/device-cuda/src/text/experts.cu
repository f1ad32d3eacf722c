// A mixture of experts on few rows, in two kernels: hidden = share * gelu(x * w1^T + b1) of the
// experts that some row has chosen, then y = sum over experts (hidden * w2^T + share * b2).
// Made for reading the weights of the chosen experts once at full bandwidth; those of the others
// are not read. Rows are taken 64 at a time, and each such chunk reads its experts' weights anew.
//
// How: a block owns 16 * M_TILES columns of one expert (first kernel) or of the result (second),
// its warps share the length of the sums. Weights go through a deep queue in shared memory that is
// private to each thread. The order of k inside a product is free, so a lane takes 16 contiguous
// bytes of a row at a time, of weights and rows alike. Weights are the left operand of the tensor
// cores, so that eight rows are the least that is computed. f32 numbers are split into two of bf16,
// and three products of the parts are summed, the small ones first: 16 bits of each factor count.
// Infinite f32 numbers become NaN by that. Partial sums meet in a fixed order.
//
// Macros
//   CALOR_TYPE      0 f32, 1 f16, 2 bf16: x, w1, b1, w2, b2, hidden and y; shares are f32
//   CALOR_D, CALOR_H, CALOR_O   lengths of rows of x, hidden and y, multiples of 8
//   CALOR_E         experts, at most 64
//   CALOR_ROWS      room for rows: hidden is [E, ROWS, H]
//   CALOR_M_TILES   16 columns of a block each
//   CALOR_ROW_TILES 1, 2, 4 or 8: eight rows each; 8 * ROW_TILES or more than ROWS, or 64
//   CALOR_STAGES    steps of weights in the queue, at least 2
//   CALOR_SPLIT     blocks of a cluster that share the sums of the second kernel; 1 before sm_90
//   CALOR_BLOCKS    blocks that must fit a multiprocessor by registers
//   CALOR_PDL       1: programmatic dependent launch
//
// Buffers: x, shares [rows, E], w1 [E, H, D], b1, w2 [E, O, H], b2, y, hidden. All are 16-byte
// aligned and dense. Words: rows.
// Grids: E * ceil(H / C) and SPLIT * ceil(O / C), with C = 16 * M_TILES; y is ceil(rows / 64).
// 256 threads. Dynamic shared bytes: STAGES * M_TILES * 256 * (f32: 64, else 32), or
// 4096 * M_TILES * ROW_TILES if that is more.

#define THREADS 256
#define WARPS 8
#define CHUNK 64

constexpr int M_TILES = CALOR_M_TILES, ROW_TILES = CALOR_ROW_TILES, E = CALOR_E;
constexpr int COLUMNS = 16 * M_TILES;
// Pieces of 16 bytes that a lane has of a row in a step of 32 numbers.
constexpr int PIECES = CALOR_TYPE == 0 ? 2 : 1;
constexpr int PIECE = 4 * (3 - PIECES);
// Tiles of rows on their way from L2.
constexpr int AHEAD = ROW_TILES < 4 ? ROW_TILES : 4;

struct Bits { unsigned r[4]; };

__device__ inline void wait_for_previous() {
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline unsigned shared_address(const void* p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
__device__ inline void copy_async(unsigned to, const Element* from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
// Past L1: another kernel, perhaps resident here at the same time, wrote the rows.
__device__ inline Bits load_rows(const Element* from, bool valid) {
    Bits x = {{0, 0, 0, 0}};
    if (valid)
        asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.r[0]), "=r"(x.r[1]), "=r"(x.r[2]), "=r"(x.r[3])
                     : "l"(from)
                     : "memory");
    return x;
}
__device__ inline Bits load_queue(unsigned from) {
    Bits x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.r[0]), "=r"(x.r[1]), "=r"(x.r[2]), "=r"(x.r[3])
                 : "r"(from)
                 : "memory");
    return x;
}

// 32 numbers of a row over the four lanes of a group, eight for each, as pairs for the tensor
// cores; f32 as a large and a small part.
struct Pairs {
    Bits large;
#if CALOR_TYPE == 0
    Bits small;
#endif
};
__device__ inline Pairs pairs_of(const Bits (&x)[PIECES]) {
    Pairs out;
#if CALOR_TYPE == 0
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float low = __uint_as_float(x[i / 2].r[i % 2 * 2]);
        const float high = __uint_as_float(x[i / 2].r[i % 2 * 2 + 1]);
        unsigned large;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(large) : "f"(high), "f"(low));
        const float low_rest = low - __uint_as_float(large << 16);
        const float high_rest = high - __uint_as_float(large & 0xffff0000u);
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out.small.r[i]) : "f"(high_rest), "f"(low_rest));
        out.large.r[i] = large;
    }
#else
    out.large = x[0];
#endif
    return out;
}

// 16 columns by 8 rows by 16 of a step's 32, the first or the second: `upper` holds the first eight
// columns.
__device__ inline void multiply(float (&d)[4], const Bits& upper, const Bits& lower,
                                const Bits& rows, int half) {
#if CALOR_TYPE == 1
#define KIND "f32.f16.f16.f32"
#else
#define KIND "f32.bf16.bf16.f32"
#endif
    const int i = 2 * half;
    asm("mma.sync.aligned.m16n8k16.row.col." KIND
        " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(upper.r[i]), "r"(lower.r[i]), "r"(upper.r[i + 1]), "r"(lower.r[i + 1]),
          "r"(rows.r[i]), "r"(rows.r[i + 1]));
}

// What a block multiplies: rows of experts in a list, each with its weights [N, K].
struct Work {
    const Element* weights;
    const Element* rows;
    // From the rows of one expert to those of the next.
    long long rows_apart;
    const int* experts;
    // First column, and the steps that all warps share: K of one expert after the other.
    int column, begin, end;
    // Tiles that have rows.
    int tiles;
};

// `row` says where this lane's row of each tile begins, or a negative number.
template <int N, int K>
__device__ inline void accumulate(float (&sums)[M_TILES][ROW_TILES][4], const Work& work,
                                  const int (&row)[ROW_TILES], unsigned queue) {
    constexpr int STEPS = (K + 31) / 32;
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4 * PIECE;
    const unsigned own = queue + threadIdx.x * 16;

    const auto ask = [&](int step, int slot) {
        const int at = step / STEPS, k0 = (step - at * STEPS) * 32 + place;
        const bool there = step < work.end;
        const int expert = there ? work.experts[at] : 0;
        const Element* from = work.weights + (long long)expert * N * K + k0;
#pragma unroll
        for (int i = 0; i < 2 * M_TILES; ++i) {
            const int column = work.column + 8 * i + group;
#pragma unroll
            for (int p = 0; p < PIECES; ++p)
                copy_async(own + ((slot * 2 * M_TILES + i) * PIECES + p) * THREADS * 16,
                           from + (long long)column * K + 16 * p,
                           there && column < N && k0 + 16 * p < K);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    const auto fetch = [&](Bits (&to)[PIECES], int step, int row_at) {
        const int at = step / STEPS, k0 = (step - at * STEPS) * 32 + place;
        const bool there = step < work.end && 0 <= row_at;
        const Element* from = work.rows + row_at + k0;
        if (work.rows_apart != 0 && there) from += work.experts[at] * work.rows_apart;
#pragma unroll
        for (int p = 0; p < PIECES; ++p) to[p] = load_rows(from + 16 * p, there && k0 + 16 * p < K);
    };

    const bool few = ROW_TILES == AHEAD || work.tiles <= AHEAD;
    int step = work.begin + warp;
#pragma unroll
    for (int i = 0; i < CALOR_STAGES - 1; ++i) ask(step + i * WARPS, i);
    Bits coming[AHEAD][PIECES];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) fetch(coming[i], step, row[i]);
    int slot = 0, free_slot = CALOR_STAGES - 1;
#pragma unroll 1
    for (; step < work.end; step += WARPS) {
        asm volatile("cp.async.wait_group %0;" ::"n"(CALOR_STAGES - 2) : "memory");
        Pairs weights[2 * M_TILES];
#pragma unroll
        for (int i = 0; i < 2 * M_TILES; ++i) {
            Bits raw[PIECES];
#pragma unroll
            for (int p = 0; p < PIECES; ++p)
                raw[p] = load_queue(own + ((slot * 2 * M_TILES + i) * PIECES + p) * THREADS * 16);
            weights[i] = pairs_of(raw);
        }
        ask(step + (CALOR_STAGES - 1) * WARPS, free_slot);
        free_slot = slot;
        if (++slot == CALOR_STAGES) slot = 0;
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) {
            const Pairs rows = pairs_of(coming[t % AHEAD]);
            // Where all tiles fit, each is asked for a whole step ahead.
            if (t < AHEAD || !few)
                fetch(coming[t % AHEAD], t < AHEAD && !few ? step : step + WARPS,
                      few ? row[t] : row[(t + AHEAD) % ROW_TILES]);
            if (t < work.tiles) {
                // Products of one sum are apart, so that none waits for the one before it.
#pragma unroll
                for (int half = 0; half < 2; ++half) {
#if CALOR_TYPE == 0
#pragma unroll
                    for (int m = 0; m < M_TILES; ++m)
                        multiply(sums[m][t], weights[2 * m].small, weights[2 * m + 1].small,
                                 rows.large, half);
#pragma unroll
                    for (int m = 0; m < M_TILES; ++m)
                        multiply(sums[m][t], weights[2 * m].large, weights[2 * m + 1].large,
                                 rows.small, half);
#endif
#pragma unroll
                    for (int m = 0; m < M_TILES; ++m)
                        multiply(sums[m][t], weights[2 * m].large, weights[2 * m + 1].large,
                                 rows.large, half);
                }
            }
        }
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

constexpr int GROUPS = M_TILES * ROW_TILES * 32;

// The warps' sums added up in order, one group of four for each item below GROUPS, at the front of
// the queue's memory.
__device__ inline void meet(const float (&sums)[M_TILES][ROW_TILES][4], float4* shared) {
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) {
            const float (&d)[4] = sums[m][t];
            shared[warp * GROUPS + (m * ROW_TILES + t) * 32 + lane] = float4{d[0], d[1], d[2], d[3]};
        }
    __syncthreads();
    for (int i = threadIdx.x; i < GROUPS; i += THREADS) {
        float4 sum = shared[i];
        for (int w = 1; w < WARPS; ++w) {
            const float4 more = shared[w * GROUPS + i];
            sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
        }
        shared[i] = sum;
    }
}

// Column and row of an element of a group, inside the tile.
__device__ inline int column_of(int item, int i) {
    return item / (32 * ROW_TILES) * 16 + item % 32 / 4 + i / 2 * 8;
}
__device__ inline int row_of(int item, int i) {
    return item / 32 % ROW_TILES * 8 + item % 4 * 2 + i % 2;
}

__device__ inline float gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

#define PARAMETERS                                                                              \
    const Element *x, const float *shares, const Element *w1, const Element *b1,                \
        const Element *w2, const Element *b2, Element *y, Element *hidden,                      \
        const __grid_constant__ Words words, const unsigned *live,                              \
        const __grid_constant__ Rules rules

extern "C" __global__ void __launch_bounds__(THREADS, CALOR_BLOCKS) calor_experts_up(PARAMETERS) {
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ float share[CHUNK];
    __shared__ int list[CHUNK];
    __shared__ unsigned chosen[2];
    __shared__ int expert;
    constexpr int TILES = (CALOR_H + COLUMNS - 1) / COLUMNS;
    const int thread = threadIdx.x, row0 = blockIdx.y * CHUNK;
    const int column = blockIdx.x % TILES * COLUMNS, own = blockIdx.x / TILES;
    wait_for_previous();
    const long long left = live_word(words.w[0], rules.at[0], live) - row0;
    const int n = left < CHUNK ? (int)left : CHUNK;

    if (thread < CHUNK) {
        const float it = thread < n ? __ldcg(shares + (long long)(row0 + thread) * E + own) : 0.0f;
        share[thread] = it;
        const unsigned bits = __ballot_sync(0xffffffffu, it != 0.0f);
        if (thread % 32 == 0) chosen[thread / 32] = bits;
    }
    if (thread == 0) expert = own;
    __syncthreads();
    const int below = __popc(chosen[0]), count = below + __popc(chosen[1]);
    if (count == 0) return;
    if (thread < CHUNK && share[thread] != 0.0f) {
        const unsigned before = chosen[thread / 32] & ((1u << thread % 32) - 1);
        list[(thread < 32 ? 0 : below) + __popc(before)] = thread;
    }
    __syncthreads();

    int row[ROW_TILES];
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
        const int at = t * 8 + thread % 32 / 4;
        row[t] = at < count ? list[at] * CALOR_D : -1;
    }
    constexpr int STEPS = (CALOR_D + 31) / 32;
    const Work work = {w1, x + (long long)row0 * CALOR_D, 0, &expert, column, 0, STEPS,
                       (count + 7) / 8};
    float sums[M_TILES][ROW_TILES][4] = {};
    accumulate<CALOR_H, CALOR_D>(sums, work, row, shared_address(shared));
    meet(sums, (float4*)shared);

    Element* const to = hidden + ((long long)own * CALOR_ROWS + row0) * CALOR_H;
    for (int item = thread; item < GROUPS; item += THREADS) {
        const float4 sum = ((const float4*)shared)[item];
        const float part[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = row_of(item, i), c = column + column_of(item, i);
            if (count <= at || CALOR_H <= c) continue;
            const float bent = gelu(part[i] + value_of(__ldcg(b1 + own * CALOR_H + c)));
            to[(long long)list[at] * CALOR_H + c] = element_of(share[list[at]] * bent);
        }
    }
    // The second kernel takes all rows of an expert.
    for (int at = thread; at < n * COLUMNS; at += THREADS) {
        const int c = column + at % COLUMNS;
        if (share[at / COLUMNS] == 0.0f && c < CALOR_H)
            to[(long long)(at / COLUMNS) * CALOR_H + c] = element_of(0.0f);
    }
}

extern "C" __global__ void
#if CALOR_SPLIT > 1
__cluster_dims__(CALOR_SPLIT, 1, 1)
#endif
__launch_bounds__(THREADS, CALOR_BLOCKS) calor_experts_down(PARAMETERS) {
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ float share[CHUNK * E];
    __shared__ int taking[E], experts[E];
    __shared__ int expert_count;
    const int thread = threadIdx.x, row0 = blockIdx.y * CHUNK;
    const int rank = blockIdx.x % CALOR_SPLIT, column = blockIdx.x / CALOR_SPLIT * COLUMNS;
    if (thread < E) taking[thread] = 0;
    wait_for_previous();
    const long long left = live_word(words.w[0], rules.at[0], live) - row0;
    const int n = left < CHUNK ? (int)left : CHUNK;
    __syncthreads();
    for (int i = thread; i < n * E; i += THREADS) {
        share[i] = __ldcg(shares + (long long)row0 * E + i);
        if (share[i] != 0.0f) taking[i % E] = 1;
    }
    __syncthreads();
    if (thread == 0) {
        int count = 0;
        for (int e = 0; e < E; ++e)
            if (taking[e]) experts[count++] = e;
        expert_count = count;
    }
    __syncthreads();

    int row[ROW_TILES];
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
        const int at = t * 8 + thread % 32 / 4;
        row[t] = at < n ? at * CALOR_H : -1;
    }
    constexpr int STEPS = (CALOR_H + 31) / 32;
    const int steps = expert_count * STEPS;
    const Work work = {w2, hidden + (long long)row0 * CALOR_H, (long long)CALOR_ROWS * CALOR_H,
                       experts, column, steps * rank / CALOR_SPLIT,
                       steps * (rank + 1) / CALOR_SPLIT, (n + 7) / 8};
    float sums[M_TILES][ROW_TILES][4] = {};
    accumulate<CALOR_O, CALOR_H>(sums, work, row, shared_address(shared));
    meet(sums, (float4*)shared);
#if CALOR_SPLIT > 1
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
    for (int item = thread * CALOR_SPLIT + rank; item < GROUPS; item += THREADS * CALOR_SPLIT) {
        float part[4] = {};
#pragma unroll
        for (int r = 0; r < CALOR_SPLIT; ++r) {
            float4 sum;
#if CALOR_SPLIT > 1
            unsigned there;
            asm("mapa.shared::cluster.u32 %0, %1, %2;"
                : "=r"(there)
                : "r"(shared_address(shared) + item * 16), "r"(r));
            asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(sum.x), "=f"(sum.y), "=f"(sum.z), "=f"(sum.w)
                         : "r"(there)
                         : "memory");
#else
            sum = ((const float4*)shared)[item];
#endif
            part[0] += sum.x, part[1] += sum.y, part[2] += sum.z, part[3] += sum.w;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = row_of(item, i), c = column + column_of(item, i);
            if (n <= at || CALOR_O <= c) continue;
            float sum = part[i];
            for (int e = 0; e < E; ++e) {
                const float it = share[at * E + e];
                if (it != 0.0f) sum += it * value_of(__ldcg(b2 + e * CALOR_O + c));
            }
            y[(long long)(row0 + at) * CALOR_O + c] = element_of(sum);
        }
    }
#if CALOR_SPLIT > 1
    // The others may still be reading.
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
