// out[n, v] = ln(1 + max(0, largest of h[t, :] * w[v, :] + bias[v] over the rows t of segment n)) on
// Hopper's warpgroup products. The logits exist in registers only.
//
// A block owns 128 terms at a time and takes all rows, TOKENS by TOKENS: so a term of a segment has
// one owner, and what is merged across tiles is merged by one thread, in order. Terms are the left
// operand, so a segment's largest logit is found among the sums of four lanes. One warp fills a
// ring of shared-memory stages by tensor copies, two groups of four warps multiply, 64 terms each.
//
// f32: both factors are split into two numbers of bf16 and three products of the parts are summed,
// the small ones first: 16 bits of each factor count. A kernel in front splits the rows of h; terms
// are split in registers. Infinite numbers become NaN by that.
//
// Macros
//   CALOR_TYPE    0 f32, 1 f16, 2 bf16: h, w and bias; the result is f32
//   CALOR_V       terms
//   CALOR_K       length of a row, a multiple of 8
//   CALOR_TOKENS  rows of a tile: 32, 64, 128 or, of half types, 256
//   CALOR_STAGES  stages of the ring, at least 2
//   CALOR_PDL     1: programmatic dependent launch
//
// Buffers: h [t, K], w [V, K], bias [V], lo, hi i32 [n], out [n, V], for f32 parts bf16 [t, 2 * P]
// with P = K rounded up to 64: the large parts of a row, then the small ones, with each 16 in the
// order 0 1 4 5 8 9 12 13 2 3 6 7 10 11 14 15. Dense; h and w aligned to 16 bytes. Words: t, n.
// Tensor maps, after the rules: rows (h; f32: parts, 2 * P columns), box {64, TOKENS}; w (f32: as
// 2 * K columns of two bytes), box {64, 128}. Swizzle of 128 bytes, zeros outside.
//
// Launch: min(ceil(V / 128), multiprocessors) blocks of 384 threads, shared bytes
//   1024 + STAGES * (f32: 2, else 1) * 128 * (128 + TOKENS) + 16 * STAGES.
// calor_splade_split (f32): ceil(t / 8) blocks of 256 threads.

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int TOKENS = CALOR_TOKENS, STAGES = CALOR_STAGES;
constexpr int TERMS = 128;
constexpr int LINES = CALOR_TYPE == 0 ? 2 : 1;
constexpr int W_LINE = TERMS * 128, H_LINE = TOKENS * 128;
constexpr int STAGE_BYTES = LINES * (W_LINE + H_LINE);
// Each of 64 numbers of k.
constexpr int STEPS = (CALOR_K + 63) / 64;
constexpr int PADDED = STEPS * 64;
constexpr int TILES = (CALOR_V + TERMS - 1) / TERMS;

struct alignas(64) TensorMap { u64 opaque[16]; };

__device__ inline void wait_for_previous() {
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_start() {
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
__device__ inline void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}
__device__ inline void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void tile_load(u32 to, const TensorMap& map, int column, int row, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

// Products of a group: 64 terms by TOKENS rows by 16 numbers of k.

#define SUMS_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), \
    "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// The names of the sums, and those of the arguments after them.
#if CALOR_TOKENS == 32
#define SHAPE "m64n32k16"
#define NAMES NAMES_0
#define SUMS SUMS_16(0)
#define ARGUMENTS(f) f("%16", "%17", "%18", "%19", "%20", "%21")
#elif CALOR_TOKENS == 64
#define SHAPE "m64n64k16"
#define NAMES NAMES_0 NAMES_16
#define SUMS SUMS_32(0)
#define ARGUMENTS(f) f("%32", "%33", "%34", "%35", "%36", "%37")
#elif CALOR_TOKENS == 128
#define SHAPE "m64n128k16"
#define NAMES NAMES_0 NAMES_16 NAMES_32
#define SUMS SUMS_32(0), SUMS_32(32)
#define ARGUMENTS(f) f("%64", "%65", "%66", "%67", "%68", "%69")
#elif CALOR_TOKENS == 256 && CALOR_TYPE != 0
#define SHAPE "m64n256k16"
#define NAMES NAMES_0 NAMES_16 NAMES_32 NAMES_64
#define SUMS SUMS_32(0), SUMS_32(32), SUMS_32(64), SUMS_32(96)
#define ARGUMENTS(f) f("%128", "%129", "%130", "%131", "%132", "%133")
#else
#error "CALOR_TOKENS is 32, 64, 128 or 256, of f32 at most 128"
#endif
#if CALOR_TYPE == 1
#define KINDS "f32.f16.f16"
#else
#define KINDS "f32.bf16.bf16"
#endif

typedef float Sums[TOKENS / 2];

#if CALOR_TYPE == 0
#define TEXT(a, b, c, e, rows, add)                                                              \
    "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\n"                                              \
    "wgmma.mma_async.sync.aligned." SHAPE "." KINDS " {" NAMES "}, {" a ", " b ", " c ", " e "}, " \
    rows ", p, 1, 1, 0;\n}"
__device__ inline void multiply(Sums& d, const u32 (&w)[4], u64 rows, u32 add) {
    asm volatile(ARGUMENTS(TEXT)
                 : SUMS
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(rows), "r"(add));
}
#else
#define TEXT(w, rows, add, ...)                                                                  \
    "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\n"                                              \
    "wgmma.mma_async.sync.aligned." SHAPE "." KINDS " {" NAMES "}, " w ", " rows                   \
    ", p, 1, 1, 0, 0;\n}"
__device__ inline void multiply(Sums& d, u64 w, u64 rows, u32 add) {
    asm volatile(ARGUMENTS(TEXT) : SUMS : "l"(w), "l"(rows), "r"(add));
}
#endif
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int PENDING>
__device__ inline void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Rows of 128 bytes, swizzled in atoms of eight rows.
__device__ inline u64 descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#if CALOR_TYPE == 0
// Two numbers as pairs of large and of small parts.
__device__ inline void split(float low, float high, u32& large, u32& small) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(large) : "f"(high), "f"(low));
    const float low_rest = low - __uint_as_float(large << 16);
    const float high_rest = high - __uint_as_float(large & 0xffff0000u);
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(small) : "f"(high_rest), "f"(low_rest));
}
#endif

// Where a group stands in the ring.
struct Ring {
    u32 base, full, empty;
    int stage;
    u32 phase;
};

// All products of a tile; `own` is a lane's place in the group.
__device__ inline void tile_products(Sums& sums, Ring& ring, int group, int own) {
    [[maybe_unused]] int last = 0;
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        barrier_wait(ring.full + 8 * ring.stage, ring.phase);
        const u32 w = ring.base + ring.stage * STAGE_BYTES + group * 64 * 128;
        const u64 rows = descriptor(ring.base + ring.stage * STAGE_BYTES + LINES * W_LINE);
#if CALOR_TYPE == 0
        // Sixteen numbers of k lie in 64 bytes of a term, four for each lane of four.
        u32 large[4][4], small[4][4];
        const int term = own / 32 * 16 + own % 32 / 4, four = own % 4;
#pragma unroll
        for (int part = 0; part < 4; ++part)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int row = term + 8 * i;
                const u32 at = w + part / 2 * W_LINE + row * 128 +
                               (((part % 2 * 4 + four) ^ (row & 7)) << 4);
                float4 x;
                asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                             : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                             : "r"(at)
                             : "memory");
                split(x.x, x.y, large[part][i], small[part][i]);
                split(x.z, x.w, large[part][i + 2], small[part][i + 2]);
            }
        products_begin();
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            multiply(sums, small[part], rows + part * 2, step + part != 0);
            multiply(sums, large[part], rows + H_LINE / 16 + part * 2, 1);
            multiply(sums, large[part], rows + part * 2, 1);
        }
        products_commit();
        products_wait<0>();
        // The products read these registers until here.
#pragma unroll
        for (int part = 0; part < 4; ++part)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                asm volatile("" : "+r"(large[part][i]), "+r"(small[part][i])::"memory");
        if (own % 32 == 0) barrier_arrive(ring.empty + 8 * ring.stage);
#else
        products_begin();
#pragma unroll
        for (int part = 0; part < 4; ++part)
            multiply(sums, descriptor(w) + part * 2, rows + part * 2, step + part != 0);
        products_commit();
        if (0 < step) {
            products_wait<1>();
            if (own % 32 == 0) barrier_arrive(ring.empty + 8 * last);
        }
        last = ring.stage;
#endif
        if (++ring.stage == STAGES) ring.stage = 0, ring.phase ^= 1;
    }
#if CALOR_TYPE != 0
    products_wait<0>();
    if (own % 32 == 0) barrier_arrive(ring.empty + 8 * last);
#endif
#pragma unroll
    for (int i = 0; i < TOKENS / 2; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// The larger, or what is not a number.
__device__ inline float larger(float a, float b) {
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

// The largest sums of rows lo to hi of a tile, for the two terms of this lane and its three
// neighbours.
__device__ inline float2 largest(const Sums& sums, int lo, int hi, int lane) {
    float2 best;
    best.x = best.y = __int_as_float(0xff800000);
#pragma unroll
    for (int many = 0; many < TOKENS; many += 32) {
        if (hi <= many || many + 32 <= lo) continue;
#pragma unroll
        for (int eight = many; eight < many + 32; eight += 8) {
            const float* const d = sums + eight / 2;
            if (lo <= eight && eight + 8 <= hi) {
                best.x = larger(best.x, larger(d[0], d[1]));
                best.y = larger(best.y, larger(d[2], d[3]));
            } else if (eight < hi && lo < eight + 8) {
                const int row = eight + lane % 4 * 2;
                const bool first = lo <= row && row < hi, second = lo <= row + 1 && row + 1 < hi;
                if (first) best.x = larger(best.x, d[0]), best.y = larger(best.y, d[2]);
                if (second) best.x = larger(best.x, d[1]), best.y = larger(best.y, d[3]);
            }
        }
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
        best.x = larger(best.x, __shfl_xor_sync(0xffffffffu, best.x, distance));
        best.y = larger(best.y, __shfl_xor_sync(0xffffffffu, best.y, distance));
    }
    return best;
}

#define PARAMETERS                                                                           \
    const Element *h, const Element *w, const Element *bias, const int *lo, const int *hi,   \
        float *out, PARTS const __grid_constant__ Words words, const unsigned *live,         \
        const __grid_constant__ Rules rules, const __grid_constant__ TensorMap map_h,        \
        const __grid_constant__ TensorMap map_w
#if CALOR_TYPE == 0
#define PARTS u32 *parts,

extern "C" __global__ void __launch_bounds__(256) calor_splade_split(PARAMETERS) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32;
    wait_for_previous();
    let_next_start();
    if (live_word(words.w[0], rules.at[0], live) <= row) return;
    u32* const to = parts + (long long)row * PADDED;
    for (int four = threadIdx.x % 32; four < PADDED / 4; four += 32) {
        float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (four * 4 < CALOR_K) x = __ldcg((const float4*)(h + (long long)row * CALOR_K) + four);
        u32 large[2], small[2];
        split(x.x, x.y, large[0], small[0]);
        split(x.z, x.w, large[1], small[1]);
        const int at = four / 4 * 8 + four % 4;
        to[at] = large[0];
        to[at + 4] = large[1];
        to[PADDED / 2 + at] = small[0];
        to[PADDED / 2 + at + 4] = small[1];
    }
}
#else
#define PARTS
#endif

extern "C" __global__ void __launch_bounds__(384, 1) calor_splade(PARAMETERS) {
    extern __shared__ unsigned char shared[];
    // Swizzled rows repeat every 1024 bytes.
    const u32 base = ((u32)__cvta_generic_to_shared(shared) + 1023) & ~1023u;
    const u32 full = base + STAGES * STAGE_BYTES, empty = full + 8 * STAGES;
    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    const int lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
    }
    // Weights are rarely somebody's output: bring the first terms nearer meanwhile.
    {
        constexpr long long ALL = (long long)CALOR_V * CALOR_K * sizeof(Element);
        constexpr long long TILE = (long long)TERMS * CALOR_K * sizeof(Element);
        for (long long at = threadIdx.x * 2048ll; at < TILE; at += 384 * 2048ll)
            if (blockIdx.x * TILE + at + 2048 <= ALL)
                asm volatile("cp.async.bulk.prefetch.L2.global [%0], 2048;" ::"l"(
                    (const char*)w + blockIdx.x * TILE + at));
    }
    wait_for_previous();
    let_next_start();
    const int t = (int)live_word(words.w[0], rules.at[0], live);
    const int n = (int)live_word(words.w[1], rules.at[1], live);
    __syncthreads();

    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(24));
        if (threadIdx.x != 256) return;
        int stage = 0;
        u32 phase = 1;
        for (int tile = blockIdx.x; tile < TILES; tile += gridDim.x)
            // Segments without rows are written by the first tile, which there always is.
            for (int row = 0; row == 0 || row < t; row += TOKENS)
#pragma unroll 1
                for (int step = 0; step < STEPS; ++step) {
                    barrier_wait(empty + 8 * stage, phase);
                    const u32 ready = full + 8 * stage, to = base + stage * STAGE_BYTES;
                    barrier_expect(ready, STAGE_BYTES);
#pragma unroll
                    for (int i = 0; i < LINES; ++i) {
                        tile_load(to + i * W_LINE, map_w, (step * LINES + i) * 64, tile * TERMS, ready);
                        tile_load(to + LINES * W_LINE + i * H_LINE, map_h, i * PADDED + step * 64, row,
                                  ready);
                    }
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(240));
    const int own = threadIdx.x % 128;
    Ring ring = {base, full, empty, 0, 0};
    Sums sums;
    for (int tile = blockIdx.x; tile < TILES; tile += gridDim.x) {
        // Of each four lanes the first two have a term.
        const int term = tile * TERMS + group * 64 + own / 32 * 16 + lane / 4 + lane % 4 * 8;
        const bool has_term = lane % 4 < 2 && term < CALOR_V;
        const float shift = has_term ? value_of(__ldcg(bias + term)) : 0.0f;
        for (int row = 0; row == 0 || row < t; row += TOKENS) {
            tile_products(sums, ring, group, own);
            for (int first = 0; first < n; first += 32) {
                int from = 0, to = 0;
                if (first + lane < n) {
                    from = max(__ldcg(lo + first + lane), 0);
                    to = min(__ldcg(hi + first + lane), t);
                }
                const bool has_rows = from < to && from < row + TOKENS && row < to;
                const bool is_empty = to <= from && row == 0 && first + lane < n;
                u32 todo = __ballot_sync(0xffffffffu, has_rows || is_empty);
                while (todo != 0) {
                    const int i = __ffs(todo) - 1;
                    todo &= todo - 1;
                    const int begin = __shfl_sync(0xffffffffu, from, i) - row;
                    const int end = __shfl_sync(0xffffffffu, to, i) - row;
                    float* const at = out + (long long)(first + i) * CALOR_V + term;
                    if (end <= begin) {
                        if (has_term) *at = 0.0f;
                    } else {
                        const float2 best = largest(sums, begin, end, lane);
                        if (has_term) {
                            // Rounding keeps order, so the bias may come after the maximum.
                            float x = larger((lane % 4 == 0 ? best.x : best.y) + shift, 0.0f);
                            if (begin < 0) x = larger(x, *at);
                            *at = end <= TOKENS ? log1pf(x) : x;
                        }
                    }
                }
            }
        }
    }
}
