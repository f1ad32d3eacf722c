// Attention inside one sequence of at most 16 * CALOR_M_TILES tokens (head size 64) together with
// the output layer that reads it: C = attention(qkv) W^T + bias + norm(residual). A block attends
// for the heads of its slice of k, so the output layer's rows of A never leave the registers; the
// price is that every column tile repeats the attention, which here costs less than a launch.
//
// Macros: CALOR_TYPE 1 f16, 2 bf16; CALOR_HEADS; CALOR_M_TILES 1 .. 4; CALOR_N_TILE multiple of 8;
//   CALOR_HEADS_A_BLOCK: HEADS / HEADS_A_BLOCK blocks (1, 2, 4 or 8) make a cluster that shares k;
//   CALOR_PDL. n = k = 64 * HEADS. sm_90 and later.
// Buffers: qkv [m, 3, heads, 64], W [n, k], bias f32 [n], residual [m, n], moments_in f32 [m, 2],
//   gamma f32 [n], beta f32 [n], C [m, n]. Words: m, row stride of C, of residual.
// Grid: x = SPLIT * ceil(n / N_TILE), SPLIT = HEADS / HEADS_A_BLOCK. Block: 32 * WARPS,
//   WARPS = HEADS_A_BLOCK * M_TILES. Dynamic shared bytes, G = M_TILES * N_TILE * 4:
//   max(N_TILE * (HEADS_A_BLOCK * 128 + 16), HEADS_A_BLOCK * G * 16) + G * 16 + 16 * N_TILE
//   + 128 * M_TILES + 16.

#define M_TILES CALOR_M_TILES
#define N_GROUPS (CALOR_N_TILE / 8)
#define SHARED_HEADS CALOR_HEADS_A_BLOCK
#define SPLIT (CALOR_HEADS / SHARED_HEADS)
#define WARPS (SHARED_HEADS * M_TILES)
#define THREADS (32 * WARPS)
#define ROWS (16 * M_TILES)
#define WIDTH (64 * CALOR_HEADS)
#if CALOR_HEADS % CALOR_HEADS_A_BLOCK
#error "the heads must divide evenly"
#endif

struct Words { long long w[3]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[3]; };
__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}
struct alignas(16) Piece { unsigned r[4]; };
__device__ inline Piece load_piece(const unsigned short* from, bool valid) {
    Piece p = {{0, 0, 0, 0}};
    if (valid)
        asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(p.r[0]), "=r"(p.r[1]), "=r"(p.r[2]), "=r"(p.r[3])
                     : "l"(from) : "memory");
    return p;
}
__device__ inline unsigned narrow_pair(float low, float high) {
    unsigned pair;
#if CALOR_TYPE == 1
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
    return pair;
}
__device__ inline void multiply16(float (&d)[4], unsigned a0, unsigned a1, unsigned a2,
                                  unsigned a3, unsigned b0, unsigned b1) {
#if CALOR_TYPE == 1
#define MULTIPLY16 "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#else
#define MULTIPLY16 "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#endif
    asm(MULTIPLY16 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Leaves in result[h][p] the columns 16 c + 8 p .. + 7 of the head's row `lane / 4 + 8 h` of the
// tile, c = lane % 4: the form in which a product over the head's 64 columns can read them.
__device__ inline void attend(const unsigned short* qkv, int head, int tile, int m, int lane,
                              Piece (&result)[2][2]) {
    constexpr int KEYS = CALOR_M_TILES * 16;
    constexpr int STRIDE = 3 * CALOR_HEADS * 64;
    const int r = lane / 4;
    const int c = lane % 4;
    const unsigned short* const q = qkv + head * 64;
    const unsigned short* const k = q + CALOR_HEADS * 64;
    const unsigned short* const v = k + CALOR_HEADS * 64;
    Piece query[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int b = 0; b < 2; ++b)
            query[h][b] = load_piece(q + (tile * 16 + r + h * 8) * STRIDE + b * 32 + c * 8,
                                     tile * 16 + r + h * 8 < m);
    Piece key[KEYS / 8][2];
#pragma unroll
    for (int t = 0; t < KEYS / 8; ++t)
#pragma unroll
        for (int b = 0; b < 2; ++b)
            key[t][b] = load_piece(k + (t * 8 + r) * STRIDE + b * 32 + c * 8, t * 8 + r < m);
    Piece value[KEYS / 16][2][2];
#pragma unroll
    for (int s = 0; s < KEYS / 16; ++s)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = s * 16 + i / 2 * 8 + c * 2 + i % 2;
            value[s][i / 2][i % 2] = load_piece(v + row * STRIDE + r * 8, row < m);
        }
    float score[KEYS / 8][4] = {};
#pragma unroll
    for (int t = 0; t < KEYS / 8; ++t)
#pragma unroll
        for (int b = 0; b < 2; ++b)
#pragma unroll
            for (int i = 0; i < 4; i += 2)
                multiply16(score[t], query[0][b].r[i], query[1][b].r[i], query[0][b].r[i + 1],
                           query[1][b].r[i + 1], key[t][b].r[i], key[t][b].r[i + 1]);
    float total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float high = -1e30f;
#pragma unroll
        for (int t = 0; t < KEYS / 8; ++t)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float& x = score[t][h * 2 + i];
                if (m <= t * 8 + c * 2 + i) x = -1e30f;
                high = fmaxf(high, x);
            }
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
#pragma unroll
        for (int t = 0; t < KEYS / 8; ++t)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float& x = score[t][h * 2 + i];
                x = exp2f((x - high) * (0.125f * 1.44269504f));
                total[h] += x;
            }
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
    }
    float sum[8][4] = {};
#pragma unroll
    for (int s = 0; s < KEYS / 16; ++s) {
        const unsigned a0 = narrow_pair(score[2 * s][0], score[2 * s][1]);
        const unsigned a1 = narrow_pair(score[2 * s][2], score[2 * s][3]);
        const unsigned a2 = narrow_pair(score[2 * s + 1][0], score[2 * s + 1][1]);
        const unsigned a3 = narrow_pair(score[2 * s + 1][2], score[2 * s + 1][3]);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const unsigned pick = j % 2 ? 0x7632u : 0x5410u;
            multiply16(sum[j], a0, a1, a2, a3,
                       __byte_perm(value[s][0][0].r[j / 2], value[s][0][1].r[j / 2], pick),
                       __byte_perm(value[s][1][0].r[j / 2], value[s][1][1].r[j / 2], pick));
        }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const float share = 1.0f / total[h];
#pragma unroll
        for (int p = 0; p < 2; ++p)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                result[h][p].r[i] = narrow_pair(sum[2 * i][h * 2 + p] * share,
                                                sum[2 * i + 1][h * 2 + p] * share);
    }
}

struct alignas(8) Moments { float mean, scale; };
struct alignas(16) Four { float x[4]; };
__device__ inline float widen(unsigned short bits) {
#if CALOR_TYPE == 1
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    return __uint_as_float((unsigned)bits << 16);
#endif
}
__device__ inline unsigned shared_address(const void* p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
__device__ inline unsigned load_pair(const unsigned short* from, bool valid) {
    unsigned pair = 0;
    if (valid) asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(pair) : "l"(from) : "memory");
    return pair;
}
__device__ inline Piece load_shared(unsigned from) {
    Piece p;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(p.r[0]), "=r"(p.r[1]), "=r"(p.r[2]), "=r"(p.r[3]) : "r"(from) : "memory");
    return p;
}
__device__ inline void open_barrier(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\t"
                 "fence.mbarrier_init.release.cluster;\n\t"
                 "fence.proxy.async.shared::cta;\n\t"
                 "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1], %2, [%3];"
                 :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
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

constexpr int W_ROW_BYTES = SHARED_HEADS * 128 + 16;
constexpr int GROUPS = M_TILES * N_GROUPS * 32;
constexpr int OWN_GROUPS = GROUPS / SPLIT;
constexpr int OWN_TURNS = (OWN_GROUPS + THREADS - 1) / THREADS;
constexpr int QUEUE_BYTES = CALOR_N_TILE * W_ROW_BYTES > SHARED_HEADS * GROUPS * 16
    ? CALOR_N_TILE * W_ROW_BYTES : SHARED_HEADS * GROUPS * 16;

extern "C" __global__ void __cluster_dims__(SPLIT, 1, 1) __launch_bounds__(THREADS)
calor_attention_out(
    const unsigned short* qkv, const unsigned short* weights, const float* bias,
    const unsigned short* residual, const Moments* moments_in, const float* gamma,
    const float* beta, unsigned short* c, const __grid_constant__ Words words,
    const unsigned* live, const __grid_constant__ Rules rules) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int thread = (int)threadIdx.x;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const int rank = (int)(blockIdx.x % SPLIT);
    const int n_first = (int)(blockIdx.x / SPLIT) * CALOR_N_TILE;
    Four* const parts = (Four*)(shared + QUEUE_BYTES);
    float* const vectors = (float*)(shared + QUEUE_BYTES + GROUPS * 16);
    Moments* const moments = (Moments*)(vectors + 4 * CALOR_N_TILE);
    const unsigned barrier = shared_address(moments + ROWS);

    const unsigned part_barrier = barrier + 8;
    if (thread == 0) open_barrier(part_barrier, GROUPS * 16);
    cluster_arrive();
    if (warp == 0) {
        const int left = WIDTH - n_first;
        const int share_rows = left < CALOR_N_TILE ? left : CALOR_N_TILE;
        if (lane == 0) open_barrier(barrier, share_rows * SHARED_HEADS * 128);
        __syncwarp();
        for (int row = lane; row < share_rows; row += 32)
            copy_bulk(shared_address(shared) + row * W_ROW_BYTES,
                      weights + (long long)(n_first + row) * WIDTH + rank * SHARED_HEADS * 64,
                      SHARED_HEADS * 128, barrier);
    }
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    const int m = (int)live_word(words.w[0], rules.at[0], live);
    const long long c_stride = live_word(words.w[1], rules.at[1], live);
    const long long r_stride = live_word(words.w[2], rules.at[2], live);
    for (int i = thread; i < CALOR_N_TILE; i += THREADS) {
        const bool valid = n_first + i < WIDTH;
        vectors[i] = valid ? bias[n_first + i] : 0.0f;
        vectors[2 * CALOR_N_TILE + i] = valid ? gamma[n_first + i] : 0.0f;
        vectors[3 * CALOR_N_TILE + i] = valid ? beta[n_first + i] : 0.0f;
    }
    __syncthreads();
    cluster_wait();
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const int shared_head = warp / M_TILES;
    const int tile = warp % M_TILES;
    Piece result[2][2];
    attend(qkv, rank * SHARED_HEADS + shared_head, tile, m, lane, result);

    const auto row_of = [&](int group) {
        return group / (N_GROUPS * 32) * 16 + group % 32 / 4;
    };
    const auto column_of = [&](int group) { return group / 32 % N_GROUPS * 8 + group % 4 * 2; };
    unsigned addend[OWN_TURNS][2];
#pragma unroll
    for (int turn = 0; turn < OWN_TURNS; ++turn) {
        const int local = thread + turn * THREADS;
        const int group = rank * OWN_GROUPS + local;
        const int row = row_of(group);
        const int n = n_first + column_of(group);
        const unsigned short* const from = residual + row * r_stride + n;
        addend[turn][0] = load_pair(from, local < OWN_GROUPS && row < m && n < WIDTH);
        addend[turn][1] = load_pair(from + 8 * r_stride,
                                    local < OWN_GROUPS && row + 8 < m && n < WIDTH);
    }
    for (int row = thread; row < ROWS; row += THREADS) {
        Moments one = {0.0f, 0.0f};
        if (row < m) one = Moments{__ldcg(&moments_in[row].mean), __ldcg(&moments_in[row].scale)};
        moments[row] = one;
    }

    float sums[N_GROUPS][4] = {};
    await_barrier(barrier);
    const unsigned from =
        shared_address(shared) + lane / 4 * W_ROW_BYTES + shared_head * 128 + lane % 4 * 32;
#pragma unroll
    for (int j = 0; j < N_GROUPS; ++j)
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            const Piece w = load_shared(from + j * 8 * W_ROW_BYTES + p * 16);
#pragma unroll
            for (int i = 0; i < 4; i += 2)
                multiply16(sums[j], result[0][p].r[i], result[1][p].r[i], result[0][p].r[i + 1],
                           result[1][p].r[i + 1], w.r[i], w.r[i + 1]);
        }
    __syncthreads();
    Four* const meeting = (Four*)shared;
#pragma unroll
    for (int j = 0; j < N_GROUPS; ++j)
        meeting[shared_head * GROUPS + (tile * N_GROUPS + j) * 32 + lane] =
            Four{{sums[j][0], sums[j][1], sums[j][2], sums[j][3]}};
    __syncthreads();
    for (int group = thread; group < GROUPS; group += THREADS) {
        Four all = meeting[group];
#pragma unroll
        for (int h = 1; h < SHARED_HEADS; ++h) {
            const Four one = meeting[h * GROUPS + group];
#pragma unroll
            for (int i = 0; i < 4; ++i) all.x[i] += one.x[i];
        }
        const int owner = group / OWN_GROUPS;
        const unsigned to =
            at_rank(shared_address(parts + rank * OWN_GROUPS + group % OWN_GROUPS), owner);
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32"
                     " [%0], {%1, %2, %3, %4}, [%5];"
                     :: "r"(to), "f"(all.x[0]), "f"(all.x[1]), "f"(all.x[2]), "f"(all.x[3]),
                        "r"(at_rank(part_barrier, owner)) : "memory");
    }
    await_barrier(part_barrier);
#pragma unroll
    for (int turn = 0; turn < OWN_TURNS; ++turn) {
        const int local = thread + turn * THREADS;
        if (OWN_GROUPS <= local) break;
        const int group = rank * OWN_GROUPS + local;
        Four all = parts[local];
#pragma unroll
        for (int r = 1; r < SPLIT; ++r) {
            const Four one = parts[r * OWN_GROUPS + local];
#pragma unroll
            for (int i = 0; i < 4; ++i) all.x[i] += one.x[i];
        }
        const int column = column_of(group);
        const int n = n_first + column;
        if (WIDTH <= n) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = row_of(group) + half * 8;
            if (m <= row) continue;
            float x[2] = {all.x[half * 2], all.x[half * 2 + 1]};
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float r = widen((unsigned short)(addend[turn][half] >> 16 * i));
                x[i] += vectors[column + i] + (r - moments[row].mean) * moments[row].scale
                        * vectors[2 * CALOR_N_TILE + column + i]
                    + vectors[3 * CALOR_N_TILE + column + i];
            }
            *(unsigned*)(c + row * c_stride + n) = narrow_pair(x[0], x[1]);
        }
    }
}
