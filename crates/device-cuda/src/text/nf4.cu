// Weights of four bits each: what all products with them share.
//
// A weight [N, K] is cut, row after row, into blocks of 64 elements. An element is an entry of
// CALOR_BOOK times the scale of its block, rounded to CALOR_TYPE. The even element of a byte is in
// its high half.
//
// Macros of all
//   CALOR_TYPE        of x and the results: 0 f32, 1 f16, 2 bf16; sums are f32
//   CALOR_N, CALOR_K  extents of a weight
//   CALOR_FORM        0 one weight, 1 two: silu(x gateᵀ) * (x upᵀ), 2 two with a result each
//   CALOR_TRANSPOSED  0: x [m, K] * wᵀ; 1: x [m, N] * w (FORM 0)
//   CALOR_BOOK        the sixteen entries
//   CALOR_PDL         1: programmatic dependent launch
// Buffers: x, for each weight its codes and its scales, each result.
// Words: 0 rows m, 1 row stride of x, 2 of the result, 3 of the second result, in elements.

#define PARTS (CALOR_FORM ? 2 : 1)
constexpr unsigned COLUMNS_ALL = CALOR_TRANSPOSED ? CALOR_K : CALOR_N;
constexpr unsigned SUM_LENGTH = CALOR_TRANSPOSED ? CALOR_N : CALOR_K;

__constant__ float BOOK[16] = {CALOR_BOOK};

struct Weight {
    const unsigned char* codes;
    const float* scales;
};

__device__ inline void let_next_start() {
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void wait_for_previous() {
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline float gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

#if CALOR_TYPE
__device__ inline unsigned pair_of(float low, float high) {
#if __CUDA_ARCH__ < 800
    return element_of(low) | (unsigned)element_of(high) << 16;
#else
    unsigned pair;
#if CALOR_TYPE == 1
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
    return pair;
#endif
}

// Eight elements from four bytes. Sixteen words of `book` lie in sixteen banks, so lanes that ask
// for different entries do not wait for each other.
__device__ inline void unpack(unsigned (&to)[4], unsigned codes, float scale, const float* book) {
    // Offsets into the book, one in each byte.
    const unsigned even = codes >> 2 & 0x3c3c3c3c, odd = codes << 2 & 0x3c3c3c3c;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float low = *(const float*)((const char*)book + __byte_perm(even, 0, 0x4440 + i));
        const float high = *(const float*)((const char*)book + __byte_perm(odd, 0, 0x4440 + i));
        to[i] = pair_of(low * scale, high * scale);
    }
}

__device__ inline unsigned shared_address(const void* at) {
    unsigned address;
    asm("{\n.reg .u64 s;\ncvta.to.shared.u64 s, %1;\ncvt.u32.u64 %0, s;\n}"
        : "=r"(address)
        : "l"(at));
    return address;
}

// BYTES (4 or 16) into shared memory, zeros where there is nothing.
template <int BYTES>
__device__ inline void copy_async(unsigned to, const void* from, bool there) {
#if 800 <= __CUDA_ARCH__
    const int bytes = there ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     ::"r"(to), "l"(from), "r"(bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes)
                     : "memory");
#else
    uint4 v = {0, 0, 0, 0};
    if (there) v = *(const uint4*)from;
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
#endif
}
__device__ inline void copies_commit() {
#if 800 <= __CUDA_ARCH__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING>
__device__ inline void copies_wait() {
#if 800 <= __CUDA_ARCH__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Sixteen rows times eight columns, sixteen elements of the sum.
__device__ inline void multiply(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                unsigned w0, unsigned w1) {
#if 800 <= __CUDA_ARCH__
#if CALOR_TYPE == 1
#define KINDS "f32.f16.f16.f32"
#else
#define KINDS "f32.bf16.bf16.f32"
#endif
    asm("mma.sync.aligned.m16n8k16.row.col." KINDS " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(w0), "r"(w1));
#else
    // The same fragments in two halves of the sum.
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(w0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a2), "r"(a3), "r"(w1));
#endif
}
#endif
