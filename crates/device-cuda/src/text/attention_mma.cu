// Interval attention on tensor cores: each query row against the keys lo <= j < hi and, with
// CALOR_EXTRA, one key more, in one softmax.
//
// Macros, all integers except CALOR_SCALE:
//   CALOR_TYPE      1 = f16, 2 = bf16 (from sm_80); the sums are f32
//   CALOR_HEADS, CALOR_KV_HEADS   query heads, a multiple of the key heads
//   CALOR_D         head size: 32, 64, 80, 96 or 128
//   CALOR_SCALE     float literal, factor of the scores
//   CALOR_EXTRA, CALOR_BIAS, CALOR_LSE   0 or 1: one more buffer each
//   CALOR_REACH     the distance table has 2 * CALOR_REACH + 1 rows (0 without a table)
//   CALOR_PDL       1: dependent launch (from sm_90)
//   CALOR_WGMMA     1: warpgroup products (sm_90a only), 0: mma.sync
//   CALOR_WARPS     warps of a block; a multiple of 4 with CALOR_WGMMA
//   CALOR_MTILES    16-row tiles of a warp: 1 or 2; 1 with CALOR_WGMMA
//   CALOR_BN        keys of a tile: a multiple of 32
//   CALOR_STAGES    key tiles in shared memory: 2, 3 or 4
//   CALOR_Q_REGS    1: queries stay in registers; 0: they are read again for each key tile
//                   (0 with CALOR_WGMMA)
//   CALOR_LATE      with CALOR_WGMMA: 1: the products with the values run on into the next tile
//                   (one stage more; slower with CALOR_EXTRA), 0: they end with theirs
//   CALOR_BLOCKS    blocks of a multiprocessor that the registers must allow
//
// Buffers: q, k, v, lo, hi, extra if CALOR_EXTRA, bias if CALOR_BIAS, out, lse if CALOR_LSE.
// Words: query rows, key rows, and the strides in elements of the rows of q, k and v.
// The addresses of q, k, v and out must be multiples of 16 bytes, the strides multiples of 8 and
// below 2^30.
// A block serves BM = 16 * CALOR_MTILES * CALOR_WARPS query rows of one head.
// Grid: (CALOR_HEADS, ceil(query rows / BM)), block: 32 * CALOR_WARPS threads.
// Dynamic shared memory, bytes:
//   4 * CALOR_STAGES * CALOR_BN * CALOR_D + 2 * BM * CALOR_D + 12 * BM + 256
//   + (CALOR_BIAS and TABLE_ROWS <= 8192 ? 4 * TABLE_ROWS : 0), TABLE_ROWS = 2 * CALOR_REACH + 1

#if CALOR_TYPE != 1 && CALOR_TYPE != 2
#error "the types are f16 and bf16"
#endif
#if CALOR_TYPE == 2 && __CUDA_ARCH__ < 800
#error "bf16 needs sm_80"
#endif
#if CALOR_D != 32 && CALOR_D != 64 && CALOR_D != 80 && CALOR_D != 96 && CALOR_D != 128
#error "the head sizes are 32, 64, 80, 96 and 128"
#endif
#if CALOR_BN < 32 || CALOR_BN % 32 != 0 || CALOR_STAGES < 2
#error "unsupported tile"
#endif
#if CALOR_HEADS % CALOR_KV_HEADS != 0
#error "the heads are no multiple of the key heads"
#endif
#if CALOR_WGMMA && (CALOR_MTILES != 1 || CALOR_WARPS % 4 != 0 || CALOR_Q_REGS)
#error "a warpgroup has four warps of 16 rows and its queries in shared memory"
#endif
#if CALOR_LATE && (!CALOR_WGMMA || CALOR_STAGES < 3)
#error "late products need CALOR_WGMMA and three stages"
#endif
#if CALOR_MTILES != 1 && CALOR_MTILES != 2
#error "a warp has one or two tiles of rows"
#endif

typedef unsigned u32;
typedef unsigned long long u64;
typedef unsigned short Element;

struct Words { long long w[5]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[5]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

constexpr int D = CALOR_D;
constexpr int BN = CALOR_BN;
constexpr int MT = CALOR_MTILES;
constexpr int STAGES = CALOR_STAGES;
constexpr int THREADS = 32 * CALOR_WARPS;
constexpr int WARP_ROWS = 16 * MT;
constexpr int BM = WARP_ROWS * CALOR_WARPS;
// Rows that skip a key tile together: those of one product instruction.
constexpr int UNIT_ROWS = CALOR_WGMMA ? 64 : WARP_ROWS;
// Key tiles whose loads run ahead. With CALOR_LATE one more place is still being read.
constexpr int LOOKAHEAD = STAGES - 1 - CALOR_LATE;
constexpr int CHUNKS = D / 8;  // 16-byte chunks of a row.
constexpr int TILE_BYTES = 2 * BN * D;
constexpr int TABLE_ROWS = 2 * CALOR_REACH + 1;
constexpr bool TABLE_STAGED = CALOR_BIAS && TABLE_ROWS <= 8192;
constexpr int NOWHERE = 0x7fffffff;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;
constexpr float SCALE2 = CALOR_SCALE * LOG2E;
// The factor rides on the exponent where it may: a table is added after it, and a maximum moves
// through it only where it is positive.
constexpr bool SCALED_FIRST = CALOR_BIAS || !(0.0f < CALOR_SCALE);
constexpr float EXPONENT = SCALED_FIRST ? 1.0f : SCALE2;
// A row keeps its reference value until a score is this far above (as a power of two): results
// stay exact, and most tiles need no rescaling.
constexpr float SLACK = 8.0f;

// A tile is stored in blocks of 64 columns (the last may be narrower). The 16-byte chunks of a
// row of a block are exchanged by row number, as the hardware's swizzles of 128, 64 and 32 bytes
// do, so that eight rows of one chunk lie in different banks.
__device__ constexpr int block_width(int block) {
    return D - 64 * block < 64 ? D - 64 * block : 64;
}
__device__ constexpr int row_bytes(int block) { return 2 * block_width(block); }
__device__ inline int swizzle(int block, int row) {
    const int width = block_width(block);
    return (width == 64 ? row : width == 32 ? row >> 1 : row >> 2) & (width / 8 - 1);
}
// Byte offset in a tile of `rows` rows.
__device__ inline int cell(int rows, int row, int chunk) {
    const int block = chunk / 8;
    return block * rows * 128 + row * row_bytes(block) +
           (((chunk % 8) ^ swizzle(block, row)) << 4);
}
// The same for chunk + lane_bit with an even constant chunk; `base_row` is a multiple of 8.
__device__ inline int lane_cell(int rows, int base_row, int lane_row, int chunk, int lane_bit) {
    const int block = chunk / 8;
    const int lane_part =
        lane_row * row_bytes(block) + ((lane_bit ^ swizzle(block, lane_row)) << 4);
    return block * rows * 128 + base_row * row_bytes(block) + (lane_part ^ ((chunk % 8) << 4));
}

__device__ inline u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

// 16 bytes to shared memory; zeros where the row is not there.
__device__ inline void copy_chunk(u32 to, const Element* from, bool there) {
#if 800 <= __CUDA_ARCH__
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
#else
    uint4 x = make_uint4(0, 0, 0, 0);
    if (there) x = *(const uint4*)from;
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y),
                 "r"(x.z), "r"(x.w)
                 : "memory");
#endif
}
__device__ inline void copies_end_group() {
#if 800 <= __CUDA_ARCH__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int LEFT>
__device__ inline void copies_wait() {
#if 800 <= __CUDA_ARCH__
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

__device__ inline void load_matrices(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}
__device__ inline void load_matrices_turned(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

#if CALOR_TYPE == 1
#define NARROW "f16"
#else
#define NARROW "bf16"
#endif

__device__ inline u32 pack(float low, float high) {
    u32 to;
#if 800 <= __CUDA_ARCH__
    asm("cvt.rn." NARROW "x2.f32 %0, %1, %2;" : "=r"(to) : "f"(high), "f"(low));
#else
    asm("{\n.reg .b16 a, b;\ncvt.rn.f16.f32 a, %1;\ncvt.rn.f16.f32 b, %2;\n"
        "mov.b32 %0, {a, b};\n}"
        : "=r"(to)
        : "f"(low), "f"(high));
#endif
    return to;
}
__device__ inline float low_half(u32 pair) {
#if CALOR_TYPE == 1
    float to;
    asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %1;\ncvt.f32.f16 %0, a;\n}" : "=f"(to) : "r"(pair));
    return to;
#else
    return __uint_as_float(pair << 16);
#endif
}
__device__ inline float high_half(u32 pair) {
#if CALOR_TYPE == 1
    float to;
    asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %1;\ncvt.f32.f16 %0, b;\n}" : "=f"(to) : "r"(pair));
    return to;
#else
    return __uint_as_float(pair & 0xffff0000u);
#endif
}

__device__ inline float power_of_two(float x) {
    float to;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(to) : "f"(x));
    return to;
}

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline int warp_min(int x) {
#if 800 <= __CUDA_ARCH__
    return __reduce_min_sync(0xffffffffu, x);
#else
    for (int distance = 16; 0 < distance; distance /= 2) {
        const int other = __shfl_xor_sync(0xffffffffu, x, distance);
        x = other < x ? other : x;
    }
    return x;
#endif
}
__device__ inline int warp_max(int x) { return -warp_min(-x); }

// d += a * b for a tile of 16 rows, 8 columns and 16 terms.
__device__ inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if 800 <= __CUDA_ARCH__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NARROW "." NARROW ".f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#if CALOR_WGMMA
__device__ inline void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_end_group() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ inline void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// Products run behind the compiler's back: it must not move a use of their results over a wait.
template <int TILES>
__device__ inline void products_hold(float (&d)[TILES][4]) {
#pragma unroll
    for (int j = 0; j < TILES; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(d[j][i])::"memory");
}
// Where a product finds a tile: rows of `bytes` bytes, eight to a swizzle pattern. The low word
// counts addresses in units of 16 bytes, so that offsets can be added to it.
__device__ inline u32 operand_base(u32 at) { return at >> 4 | 1u << 16; }
__device__ inline u64 operand(u32 base, int offset, int bytes) {
    const u32 mode = bytes == 128 ? 1 : bytes == 64 ? 2 : 3;
    return (u64)(mode << 30 | (u32)(8 * bytes / 16)) << 32 | (base + (u32)offset / 16);
}
#define ACC(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define COUNT8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define COUNT16 COUNT8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define COUNT32                                                                                  \
    COUNT16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PRODUCT(columns) \
    "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." NARROW "." NARROW
// d = left * right turned, or d += that: 64 rows, COLUMNS columns, 16 terms. Both sides are in
// shared memory.
template <int COLUMNS>
__device__ inline void score_product(float (*d)[4], u64 left, u64 right, int keep) {
    if constexpr (COLUMNS == 64) {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n" PRODUCT("64") " {" COUNT32
                     "}, %32, %33, p, 1, 1, 0, 0;\n}"
                     : ACC(0), ACC(1), ACC(2), ACC(3), ACC(4), ACC(5), ACC(6), ACC(7)
                     : "l"(left), "l"(right), "r"(keep));
    } else {
        static_assert(COLUMNS == 32, "no such product");
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n" PRODUCT("32") " {" COUNT16
                     "}, %16, %17, p, 1, 1, 0, 0;\n}"
                     : ACC(0), ACC(1), ACC(2), ACC(3)
                     : "l"(left), "l"(right), "r"(keep));
    }
}
// d += weight * right: the rows of the right side are the 16 terms.
template <int COLUMNS>
__device__ inline void value_product(float (*d)[4], const u32 (&a)[4], u64 right) {
    if constexpr (COLUMNS == 64) {
        asm volatile(PRODUCT("64") " {" COUNT32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                     : ACC(0), ACC(1), ACC(2), ACC(3), ACC(4), ACC(5), ACC(6), ACC(7)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right));
    } else if constexpr (COLUMNS == 32) {
        asm volatile(PRODUCT("32") " {" COUNT16 "}, {%16, %17, %18, %19}, %20, 1, 1, 1, 1;"
                     : ACC(0), ACC(1), ACC(2), ACC(3)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right));
    } else {
        static_assert(COLUMNS == 16, "no such product");
        asm volatile(PRODUCT("16") " {" COUNT8 "}, {%8, %9, %10, %11}, %12, 1, 1, 1, 1;"
                     : ACC(0), ACC(1)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right));
    }
}
#endif

// The keys that a unit of rows sees: every key tile outside [first, end) is skipped, one inside
// [all_from, all_to) is seen in full by every row that sees anything.
struct Range { int first, end, all_from, all_to; };

struct State {
    float out[MT][D / 8][4];
    float top[MT][2];  // Reference value of the exponents.
    float sum[MT][2];  // This lane's part.
#if CALOR_Q_REGS
    u32 q[MT][D / 16][4];
#endif
};

struct Place {
    u32 q_tile;           // This warp's first query row in shared memory is row warp_row of it.
    u32 q_base;           // The query rows as an operand.
    int group_row;        // First row of this warp's warpgroup in the block.
    int warp_row, lane;
    int row0;             // First query row of the block.
    const int* from;      // Intervals of the block's rows, cut to the keys.
    const int* to;
    const float* table;   // Distance table times log2(e) in shared memory, or as given.
    int head;
};

__device__ inline void query_matrix(u32 (&to)[4], const Place& at, int mt, int ks) {
    load_matrices(to, at.q_tile + lane_cell(BM, at.warp_row + 16 * mt, at.lane % 16, 2 * ks,
                                            at.lane / 16));
}

__device__ inline float table_value(const Place& at, int distance) {
    distance = distance < -CALOR_REACH ? -CALOR_REACH : distance;
    distance = CALOR_REACH < distance ? CALOR_REACH : distance;
    const int row = distance + CALOR_REACH;
    if (TABLE_STAGED) return at.table[row];
    return at.table[(long long)row * CALOR_HEADS + at.head] * LOG2E;
}

// Scores times the factor plus the table, as powers of two.
__device__ inline void scale_scores(float (&score)[MT][BN / 8][4], const Place& at, int key0) {
    const int first = at.row0 + at.warp_row;
    const int nearest = key0 - (first + WARP_ROWS - 1), farthest = key0 + BN - 1 - first;
    const bool beyond = CALOR_REACH <= nearest || farthest <= -CALOR_REACH;
    float same = 0.0f;
    if (CALOR_BIAS && beyond) same = table_value(at, nearest);
    if (!CALOR_BIAS || beyond) {
#pragma unroll
        for (int mt = 0; mt < MT; ++mt)
#pragma unroll
            for (int j = 0; j < BN / 8; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    score[mt][j][i] = fmaf(score[mt][j][i], SCALE2, same);
        return;
    }
    const int lane_distance = key0 + at.lane % 4 * 2 - (first + at.lane / 4);
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int j = 0; j < BN / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int distance = lane_distance + 8 * j + i % 2 - (16 * mt + 8 * (i / 2));
                score[mt][j][i] =
                    fmaf(score[mt][j][i], SCALE2, table_value(at, distance));
            }
}

__device__ inline void mask_scores(float (&score)[MT][BN / 8][4], const Place& at, int key0) {
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = at.warp_row + 16 * mt + 8 * half + at.lane / 4;
            const int from = at.from[row];
            const u32 count = (u32)(at.to[row] - from);
            const int base = key0 + at.lane % 4 * 2 - from;
#pragma unroll
            for (int j = 0; j < BN / 8; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if (count <= (u32)(base + 8 * j + i))
                        score[mt][j][2 * half + i] = __uint_as_float(0xff800000u);
        }
}

// Raises the reference values where a score of the tile lies too far above, and gives the
// exponents' offsets.
__device__ inline void raise_tops(State& state, const float (&score)[MT][BN / 8][4],
                                  float (&offset)[MT][2]) {
    float top[MT][2];
    bool far = false;
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float largest = score[mt][0][2 * half], other = score[mt][0][2 * half + 1];
#pragma unroll
            for (int j = 1; j < BN / 8; ++j) {
                largest = fmaxf(largest, score[mt][j][2 * half]);
                other = fmaxf(other, score[mt][j][2 * half + 1]);
            }
            top[mt][half] = fmaxf(state.top[mt][half], quad_max(fmaxf(largest, other)));
            far |= SLACK < (top[mt][half] - state.top[mt][half]) * EXPONENT;
        }
    if (__any_sync(0xffffffffu, far)) {
#pragma unroll
        for (int mt = 0; mt < MT; ++mt)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // Minus infinity twice is no number: a row without keys so far stays as it is.
                const bool none = top[mt][half] == __uint_as_float(0xff800000u);
                const float rest = state.top[mt][half] - (none ? 0.0f : top[mt][half]);
                const float factor = power_of_two(rest * EXPONENT);
                state.top[mt][half] = top[mt][half];
                state.sum[mt][half] *= factor;
#pragma unroll
                for (int j = 0; j < D / 8; ++j) {
                    state.out[mt][j][2 * half] *= factor;
                    state.out[mt][j][2 * half + 1] *= factor;
                }
            }
    }
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float top = state.top[mt][half];
            offset[mt][half] = top == __uint_as_float(0xff800000u) ? 0.0f : -top * EXPONENT;
        }
}

// The weights of 16 keys as a left side, and their part of the sums.
__device__ inline void weigh(u32 (&weight)[4], State& state, int mt,
                             const float (&low)[4], const float (&high)[4],
                             const float (&offset)[2]) {
    float p[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        p[i] = power_of_two(fmaf(low[i], EXPONENT, offset[i / 2]));
        p[4 + i] = power_of_two(fmaf(high[i], EXPONENT, offset[i / 2]));
    }
    state.sum[mt][0] += (p[0] + p[1]) + (p[4] + p[5]);
    state.sum[mt][1] += (p[2] + p[3]) + (p[6] + p[7]);
    weight[0] = pack(p[0], p[1]);
    weight[1] = pack(p[2], p[3]);
    weight[2] = pack(p[4], p[5]);
    weight[3] = pack(p[6], p[7]);
}

#if CALOR_WGMMA
template <int COLUMN>
__device__ inline void add_values(State& state, const u32 (&weight)[4], u32 v_base, int kc) {
    if constexpr (COLUMN < D) {
        constexpr int width = D - COLUMN < 64 ? D - COLUMN : 64;
        const int offset = COLUMN / 64 * BN * 128 + kc * 16 * 2 * width;
        value_product<width>(&state.out[0][COLUMN / 8], weight, operand(v_base, offset, 2 * width));
        add_values<COLUMN + 64>(state, weight, v_base, kc);
    }
}
__device__ inline void products_finish(State& state) {
    products_wait();
    products_hold(state.out[0]);
}
__device__ inline void start_scores(float (&score)[1][BN / 8][4], const Place& at, u32 k_base) {
    products_hold(score[0]);
    products_fence();
    const u32 q_base = at.q_base;
#pragma unroll
    for (int ks = 0; ks < D / 16; ++ks) {
        const int block = ks / 4, bytes = row_bytes(block);
        const u64 left = operand(q_base + at.group_row * bytes / 16,
                                 block * BM * 128 + ks % 4 * 32, bytes);
        const int offset = block * BN * 128 + ks % 4 * 32;
#pragma unroll
        for (int n = 0; n + 64 <= BN; n += 64)
            score_product<64>(&score[0][n / 8], left, operand(k_base, offset + n * bytes, bytes),
                              0 < ks);
        if constexpr (BN % 64 == 32)
            score_product<32>(&score[0][BN / 8 - 4], left,
                              operand(k_base, offset + (BN - 32) * bytes, bytes), 0 < ks);
    }
    products_end_group();
}
// The softmax of scores that are there, and the start of their products with the values.
__device__ inline void add_tile(State& state, float (&score)[1][BN / 8][4], const Place& at,
                                const Range& range, u32 v_tile, int key0) {
    if (SCALED_FIRST) scale_scores(score, at, key0);
    if (key0 < range.all_from || range.all_to < key0 + BN) mask_scores(score, at, key0);
    float offset[1][2];
    raise_tops(state, score, offset);
    u32 weight[BN / 16][4];
    const u32 v_base = operand_base(v_tile);
    products_hold(state.out[0]);
    // The weights of 16 keys are used as soon as they are there, under the next exponentials.
#pragma unroll
    for (int kc = 0; kc < BN / 16; ++kc) {
        weigh(weight[kc], state, 0, score[0][2 * kc], score[0][2 * kc + 1], offset[0]);
        products_fence();
        add_values<0>(state, weight[kc], v_base, kc);
    }
    products_end_group();
}
__device__ inline void tile_step(State& state, const Place& at, const Range& range, u32 k_tile,
                                 u32 v_tile, int key0) {
    float score[1][BN / 8][4];
#pragma unroll
    for (int j = 0; j < BN / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) score[0][j][i] = 0.0f;
    start_scores(score, at, operand_base(k_tile));
    products_finish(state);
    products_hold(score[0]);
    add_tile(state, score, at, range, v_tile, key0);
    if (!CALOR_LATE) products_finish(state);
}
#else
__device__ inline void products_finish(State&) {}
// EDGE: not every row sees every key of the tile. Groups of 16 keys that no row of the warp sees
// are left out there; a full tile is one straight run.
template <bool EDGE>
__device__ inline void tile_part(State& state, const Place& at, const Range& range, u32 k_tile,
                                 u32 v_tile, int key0) {
    float score[MT][BN / 8][4];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int j = 0; j < BN / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) score[mt][j][i] = 0.0f;
#pragma unroll
    for (int ks = 0; ks < D / 16; ++ks) {
#if CALOR_Q_REGS
        const u32(&q)[MT][D / 16][4] = state.q;
        const int qs = ks;
#else
        u32 q[MT][1][4];
        const int qs = 0;
#pragma unroll
        for (int mt = 0; mt < MT; ++mt) query_matrix(q[mt][0], at, mt, ks);
#endif
#pragma unroll
        for (int group = 0; group < BN / 16; ++group) {
            const int key = key0 + 16 * group;
            if (EDGE && (range.end <= key || key + 16 <= range.first)) continue;
            u32 right[4];
            load_matrices(right,
                          k_tile + lane_cell(BN, 16 * group, at.lane / 16 * 8 + at.lane % 8,
                                             2 * ks, at.lane / 8 % 2));
#pragma unroll
            for (int mt = 0; mt < MT; ++mt) {
                mma(score[mt][2 * group], q[mt][qs], right[0], right[1]);
                mma(score[mt][2 * group + 1], q[mt][qs], right[2], right[3]);
            }
        }
    }
    if (SCALED_FIRST) scale_scores(score, at, key0);
    if (EDGE) mask_scores(score, at, key0);
    float offset[MT][2];
    raise_tops(state, score, offset);
#pragma unroll
    for (int group = 0; group < BN / 16; ++group) {
        const int key = key0 + 16 * group;
        if (EDGE && (range.end <= key || key + 16 <= range.first)) continue;
        u32 weight[MT][4];
#pragma unroll
        for (int mt = 0; mt < MT; ++mt)
            weigh(weight[mt], state, mt, score[mt][2 * group], score[mt][2 * group + 1],
                  offset[mt]);
#pragma unroll
        for (int c = 0; c < CHUNKS; c += 2) {
            u32 right[4];
            load_matrices_turned(
                right, v_tile + lane_cell(BN, 16 * group, at.lane % 16, c, at.lane / 16));
#pragma unroll
            for (int mt = 0; mt < MT; ++mt) {
                mma(state.out[mt][c], weight[mt], right[0], right[1]);
                mma(state.out[mt][c + 1], weight[mt], right[2], right[3]);
            }
        }
    }
}
__device__ inline void tile_step(State& state, const Place& at, const Range& range, u32 k_tile,
                                 u32 v_tile, int key0) {
    if (range.all_from <= key0 && key0 + BN <= range.all_to) {
        tile_part<false>(state, at, range, k_tile, v_tile, key0);
    } else {
        tile_part<true>(state, at, range, k_tile, v_tile, key0);
    }
}
#endif

// The softmax starts with the extra keys: their score is the first reference value.
__device__ inline void start_with_extra(State& state, const Place& at, const int* extra,
                                        const Element* k, const Element* v, long long stride_k,
                                        long long stride_v) {
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = at.warp_row + 16 * mt + 8 * half + at.lane / 4;
            const int key = extra[row];
            const bool there = 0 <= key;
            const Element* k_row = k + (there ? key : 0) * stride_k + at.lane % 4 * 2;
            const Element* v_row = v + (there ? key : 0) * stride_v + at.lane % 4 * 2;
            float dot = 0.0f;
#pragma unroll
            for (int ks = 0; ks < D / 16; ++ks) {
#if CALOR_Q_REGS
                const u32(&q)[4] = state.q[mt][ks];
#else
                u32 q[4];
                query_matrix(q, at, mt, ks);
#endif
                u32 low = 0, high = 0;
                if (there) {
                    low = *(const u32*)(k_row + 16 * ks);
                    high = *(const u32*)(k_row + 16 * ks + 8);
                }
                dot = fmaf(low_half(q[half]), low_half(low), dot);
                dot = fmaf(high_half(q[half]), high_half(low), dot);
                dot = fmaf(low_half(q[half + 2]), low_half(high), dot);
                dot = fmaf(high_half(q[half + 2]), high_half(high), dot);
            }
            dot = quad_sum(dot);
            if (SCALED_FIRST) {
                dot *= SCALE2;
                if (CALOR_BIAS) dot += table_value(at, key - (at.row0 + row));
            }
            if (there) {
                state.top[mt][half] = dot;
                state.sum[mt][half] = at.lane % 4 == 0 ? 1.0f : 0.0f;
#pragma unroll
                for (int j = 0; j < D / 8; ++j) {
                    const u32 pair = *(const u32*)(v_row + 8 * j);
                    state.out[mt][j][2 * half] = low_half(pair);
                    state.out[mt][j][2 * half + 1] = high_half(pair);
                }
            }
        }
}

// base + factor * pitch in one instruction.
__device__ inline const char* row_at(const char* base, int factor, int pitch) {
    const char* at;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(at) : "r"(factor), "r"(pitch), "l"(base));
    return at;
}

// What a thread copies of each key tile: the same chunk of every STEP-th row where the threads
// divide so and all column blocks have one pitch, which leaves one multiplication for a copy.
constexpr bool REGULAR = (D % 64 == 0 || D < 64) && THREADS % CHUNKS == 0 &&
                         THREADS / CHUNKS % 8 == 0 && BN % (THREADS / CHUNKS) == 0;
constexpr int STEP = REGULAR ? THREADS / CHUNKS : 1;
struct Loader {
    const char* k;
    const char* v;
    int pitch_k, pitch_v;  // Bytes.
    int row;
    u32 cell;
};
__device__ inline Loader loader(const Element* k, const Element* v, long long stride_k,
                                long long stride_v) {
    Loader it = {(const char*)k, (const char*)v, (int)stride_k * 2, (int)stride_v * 2, 0, 0};
    if (REGULAR) {
        const int chunk = (int)threadIdx.x % CHUNKS;
        it.row = (int)threadIdx.x / CHUNKS;
        it.k += chunk * 16;
        it.v += chunk * 16;
        it.cell = cell(BN, it.row, chunk);
        // Kept, not computed again for each tile.
        asm volatile("" : "+l"(it.k), "+l"(it.v), "+r"(it.row), "+r"(it.cell));
    }
    asm volatile("" : "+r"(it.pitch_k), "+r"(it.pitch_v));
    return it;
}
// One tile of keys and values: rows [key0, key0 + BN), zeros from `end` on. A row that is not
// there is not read: its address may lie anywhere.
__device__ inline void load_tiles(const Loader& it, u32 k_tile, u32 v_tile, int key0, int end) {
    if constexpr (REGULAR) {
        const int pitch = D < 64 ? 2 * D : 128;
#pragma unroll
        for (int i = 0; i < BN / STEP; ++i) {
            const int key = key0 + it.row + i * STEP;
            copy_chunk(k_tile + it.cell + i * STEP * pitch,
                       (const Element*)row_at(it.k, key, it.pitch_k), key < end);
            copy_chunk(v_tile + it.cell + i * STEP * pitch,
                       (const Element*)row_at(it.v, key, it.pitch_v), key < end);
        }
    } else {
#pragma unroll
        for (int i = 0; i < (BN * CHUNKS + THREADS - 1) / THREADS; ++i) {
            const int index = i * THREADS + (int)threadIdx.x;
            if (BN * CHUNKS % THREADS != 0 && BN * CHUNKS <= index) break;
            const int row = index / CHUNKS, chunk = index % CHUNKS, key = key0 + row;
            const int to = cell(BN, row, chunk);
            copy_chunk(k_tile + to, (const Element*)(row_at(it.k, key, it.pitch_k) + chunk * 16),
                       key < end);
            copy_chunk(v_tile + to, (const Element*)(row_at(it.v, key, it.pitch_v) + chunk * 16),
                       key < end);
        }
    }
}

// The first key from `key` on that some row of the block sees.
__device__ inline int next_seen(const int* from, const int* to, int key, int lane) {
    int next = NOWHERE;
    for (int row = lane; row < BM; row += 32) {
        const int first = from[row] < key ? key : from[row];
        if (first < to[row] && first < next) next = first;
    }
    return warp_min(next);
}

extern "C" __global__ void __launch_bounds__(THREADS, CALOR_BLOCKS) calor_attention_mma(
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
    extern __shared__ __align__(1024) unsigned char shared[];
    const u32 k_tiles = shared_address(shared);
    const u32 v_tiles = k_tiles + STAGES * TILE_BYTES;
    unsigned char* const q_bytes = shared + 2 * STAGES * TILE_BYTES;
    int* const from = (int*)(q_bytes + 2 * BM * D);
    int* const to = from + BM;
    int* const named = to + BM;
    int* const joined = named + BM;
    float* const table = (float*)(joined + 64);

#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    const int thread = (int)threadIdx.x, lane = thread % 32;
    // The compiler then knows that a warp agrees on it.
    const int warp = __shfl_sync(0xffffffffu, thread / 32, 0);
    const int head = (int)blockIdx.x;
    // Under a causal mask the last rows see most keys: they start first.
    const int row0 = (int)(gridDim.y - 1 - blockIdx.y) * BM;

    // The intervals are read while the live counts are still on their way.
    int row_lo = 0, row_hi = 0, next_lo = 0, next_hi = 0, row_extra = -1;
    const bool last_row = BM <= thread + 1 || words.w[0] <= row0 + thread + 1;
    if (thread < BM && row0 + thread < words.w[0]) {
        row_lo = lo[row0 + thread];
        row_hi = hi[row0 + thread];
        if (!last_row) {
            next_lo = lo[row0 + thread + 1];
            next_hi = hi[row0 + thread + 1];
        }
#if CALOR_EXTRA
        row_extra = extra[row0 + thread];
#endif
    }
    const int tq = (int)live_word(words.w[0], rules.at[0], live);
    const int tk = (int)live_word(words.w[1], rules.at[1], live);
    const long long stride_q = live_word(words.w[2], rules.at[2], live);
    const long long stride_k = live_word(words.w[3], rules.at[3], live);
    const long long stride_v = live_word(words.w[4], rules.at[4], live);
    if (tq <= row0) return;

    const u32 q_tile = shared_address(q_bytes);
    const int pitch_q = (int)stride_q * 2;
    const Element* const k_rows = k + head / (CALOR_HEADS / CALOR_KV_HEADS) * D;
    const Element* const v_rows = v + head / (CALOR_HEADS / CALOR_KV_HEADS) * D;
#pragma unroll
    for (int i = 0; i < (BM * CHUNKS + THREADS - 1) / THREADS; ++i) {
        const int index = i * THREADS + thread;
        if (BM * CHUNKS % THREADS != 0 && BM * CHUNKS <= index) break;
        const int row = index / CHUNKS, chunk = index % CHUNKS;
        const char* const from_row = row_at((const char*)(q + head * D), row0 + row, pitch_q);
        copy_chunk(q_tile + cell(BM, row, chunk), (const Element*)(from_row + chunk * 16),
                   row0 + row < tq);
    }
    copies_end_group();
#if CALOR_BIAS
    if (TABLE_STAGED)
        for (int row = thread; row < TABLE_ROWS; row += THREADS)
            table[row] = bias[row * CALOR_HEADS + head] * LOG2E;
#endif

    // Intervals cut to the keys that are there. Rows whose neighbours' intervals touch have a
    // union without gaps.
    const auto cut = [&](int& first, int& end, bool there) {
        first = there ? (first < 0 ? 0 : tk < first ? tk : first) : 0;
        end = there ? (end < first ? first : tk < end ? tk : end) : 0;
        if (tk <= 0) first = end = 0;
    };
    cut(row_lo, row_hi, thread < BM && row0 + thread < tq);
    cut(next_lo, next_hi, !last_row && row0 + thread + 1 < tq);
    bool gap = false;
    if (warp < (BM + 31) / 32) {
        const bool seen = row_lo < row_hi, next = next_lo < next_hi;
        gap = next && (!seen || row_hi < next_lo || next_hi < row_lo);
        if (thread < BM) {
            from[thread] = row_lo;
            to[thread] = row_hi;
            const bool outside = row_extra < row_lo || row_hi <= row_extra;
            named[thread] =
                row0 + thread < tq && 0 <= row_extra && row_extra < tk && outside ? row_extra : -1;
        }
        const int first = warp_min(seen ? row_lo : NOWHERE), end = warp_max(seen ? row_hi : 0);
        if (lane == 0) {
            joined[warp] = first;
            joined[32 + warp] = end;
        }
    }
    gap = __syncthreads_or(gap);

    const bool has_part = lane < (BM + 31) / 32;
    const int first = warp_min(has_part ? joined[lane] : NOWHERE);
    const int end = warp_max(has_part ? joined[32 + lane] : 0);
    const Loader tiles = loader(k_rows, v_rows, stride_k, stride_v);
    // The key tiles under way, oldest first.
    int ahead[LOOKAHEAD + 1];
    ahead[0] = first;
    const auto following = [&](int key) {
        if (end - BN <= key) return NOWHERE;
        return gap ? next_seen(from, to, key + BN, lane) : key + BN;
    };
    const auto load = [&](int stage, int key0) {
        if (key0 < end) {
            load_tiles(tiles, k_tiles + stage * TILE_BYTES, v_tiles + stage * TILE_BYTES, key0,
                       end);
        }
        copies_end_group();
    };
#pragma unroll
    for (int stage = 0; stage < LOOKAHEAD; ++stage) {
        load(stage, ahead[stage]);
        ahead[stage + 1] = following(ahead[stage]);
    }

    const int warp_row = warp * WARP_ROWS;
#if CALOR_WGMMA
    const u32 q_base = operand_base(q_tile);
#else
    const u32 q_base = 0;
#endif
    const Place at = {q_tile, q_base, warp_row & ~63, warp_row, lane, row0, from, to,
#if CALOR_BIAS
                      TABLE_STAGED ? table : bias,
#else
                      table,
#endif
                      head};
    Range range = {NOWHERE, 0, 0, NOWHERE};
    {
        const int unit_row = warp_row / UNIT_ROWS * UNIT_ROWS;
        for (int row = unit_row + lane % UNIT_ROWS; row < unit_row + UNIT_ROWS; row += 32) {
            const int row_from = from[row], row_to = to[row];
            if (row_to <= row_from) {
                // A row without keys gives zeros whatever it sums up, but not one with an extra.
                if (CALOR_EXTRA && 0 <= named[row]) range.all_from = NOWHERE;
                continue;
            }
            range.first = row_from < range.first ? row_from : range.first;
            range.end = range.end < row_to ? row_to : range.end;
            range.all_from = range.all_from < row_from ? row_from : range.all_from;
            range.all_to = row_to < range.all_to ? row_to : range.all_to;
        }
        range.first = warp_min(range.first);
        range.end = warp_max(range.end);
        range.all_from = warp_max(range.all_from);
        range.all_to = warp_min(range.all_to);
    }

    State state;
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) state.out[mt][j][i] = 0.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            state.top[mt][half] = __uint_as_float(0xff800000u);
            state.sum[mt][half] = 0.0f;
        }
    }
#if CALOR_Q_REGS || CALOR_EXTRA
    copies_wait<LOOKAHEAD>();
    __syncthreads();
#endif
#if CALOR_Q_REGS
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int ks = 0; ks < D / 16; ++ks) query_matrix(state.q[mt][ks], at, mt, ks);
#endif
#if CALOR_EXTRA
    start_with_extra(state, at, named, k_rows, v_rows, stride_k, stride_v);
#endif

    for (int stage = 0; ahead[0] < end;) {
        copies_wait<LOOKAHEAD - 1>();
#if CALOR_WGMMA
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
        __syncthreads();
        // Every warp is through with the tile whose place the next load takes.
        int filled = stage + LOOKAHEAD;
        filled = STAGES <= filled ? filled - STAGES : filled;
        load(filled, ahead[LOOKAHEAD]);
        const int key0 = ahead[0];
        if (key0 < range.end && range.first < key0 + BN) {
            tile_step(state, at, range, k_tiles + stage * TILE_BYTES,
                      v_tiles + stage * TILE_BYTES, key0);
        } else if (CALOR_LATE) {
            products_finish(state);
        }
#pragma unroll
        for (int i = 0; i < LOOKAHEAD; ++i) ahead[i] = ahead[i + 1];
        ahead[LOOKAHEAD] = following(ahead[LOOKAHEAD - 1]);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    if (CALOR_LATE) products_finish(state);
    if (end <= first) {
        // Nothing waited for the queries yet, whose place the results take.
        copies_wait<0>();
        __syncthreads();
    }

    // Out through this warp's query rows, which nobody else reads: whole 16-byte chunks leave.
    __syncwarp();
#pragma unroll
    for (int mt = 0; mt < MT; ++mt)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp_row + 16 * mt + 8 * half + lane / 4;
            const bool any = from[row] < to[row] || 0 <= named[row];
            const float lanes_sum = quad_sum(state.sum[mt][half]);
            const float sum = any ? lanes_sum : 0.0f;
            const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j) {
                const u32 pair = any ? pack(state.out[mt][j][2 * half] * factor,
                                            state.out[mt][j][2 * half + 1] * factor)
                                     : 0;
                *(u32*)(q_bytes + lane_cell(BM, 0, row, j & ~1, j & 1) + lane % 4 * 4) = pair;
            }
#if CALOR_LSE
            if (lane % 4 == 0 && row0 + row < tq) {
                const float log = fmaf(state.top[mt][half], EXPONENT, log2f(sum)) * LN2;
                lse[(long long)(row0 + row) * CALOR_HEADS + head] =
                    sum == 0.0f ? __uint_as_float(0xff800000u) : log;
            }
#endif
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < (WARP_ROWS * CHUNKS + 31) / 32; ++i) {
        const int index = i * 32 + lane;
        const int row = warp_row + index / CHUNKS, chunk = index % CHUNKS;
        if (row0 + row < tq && index < WARP_ROWS * CHUNKS)
            *(uint4*)(row_at((const char*)(out + head * D), row0 + row, CALOR_HEADS * D * 2) +
                      chunk * 16) = *(const uint4*)(q_bytes + cell(BM, row, chunk));
    }
}
