// Full attention inside one sequence of at most 16 * CALOR_M_TILES tokens, head size 64: the least
// that the latency experiment needs. One warp takes 16 queries of one head, without shared memory.
//
// Macros: CALOR_TYPE 1 f16, 2 bf16; CALOR_HEADS; CALOR_M_TILES; CALOR_PDL.
// Buffers: qkv [m, 3, heads, 64], out [m, heads, 64]. Words: m.
// Grid: x = heads * M_TILES. Block: 32.

struct Words { long long w[1]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };
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

extern "C" __global__ void __launch_bounds__(32) calor_small_attention(
    const unsigned short* qkv, unsigned short* out,
    const __grid_constant__ Words words, const unsigned* live,
    const __grid_constant__ Rules rules) {
    const int m = (int)live_word(words.w[0], rules.at[0], live);
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const int head = (int)blockIdx.x % CALOR_HEADS;
    const int tile = (int)blockIdx.x / CALOR_HEADS;
    const int lane = (int)threadIdx.x;
    Piece result[2][2];
    attend(qkv, head, tile, m, lane, result);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = tile * 16 + lane / 4 + h * 8;
        if (m <= row) continue;
        unsigned short* to = out + row * (CALOR_HEADS * 64) + head * 64 + lane % 4 * 16;
        ((Piece*)to)[0] = result[h][0];
        ((Piece*)to)[1] = result[h][1];
    }
}
