// Front of texts that define CALOR_WORDS: launch words, and elements in memory.

struct Words { long long w[CALOR_WORDS]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[CALOR_WORDS]; };

// A launch word, or what the live counts make of it.
__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

// Elements in memory: 0 f32, 1 f16, 2 bf16, which are computed with as f32.
template <int TYPE>
struct Stored;

template <>
struct Stored<0> {
    typedef float Element;
    static __device__ inline float value_of(Element x) { return x; }
    static __device__ inline Element element_of(float x) { return x; }
};

template <>
struct Stored<1> {
    typedef unsigned short Element;
    static __device__ inline float value_of(Element bits) {
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
    }
    static __device__ inline Element element_of(float x) {
        unsigned short bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
        return bits;
    }
};

template <>
struct Stored<2> {
    typedef unsigned short Element;
    static __device__ inline float value_of(Element bits) {
        return __uint_as_float((unsigned)bits << 16);
    }
    static __device__ inline Element element_of(float x) {
#if 800 <= __CUDA_ARCH__
        unsigned short bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
        return bits;
#else
        const unsigned word = __float_as_uint(x);
        if (x != x) return 0x7fff;
        return (unsigned short)((word + 0x7fff + ((word >> 16) & 1)) >> 16);
#endif
    }
};

__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }

// Elements that lie side by side: whole lines of 16 bytes where they fill them.
template <class T, int N>
struct alignas(least(sizeof(T) * N, 16)) Pack {
    T at[N];
};

// For what a kernel wrote that may still be resident here: a copy in L1 could be older.
template <class T, int N>
__device__ inline Pack<T, N> load_shared_by_kernels(const T* from) {
    Pack<T, N> pack;
    constexpr int BYTES = sizeof(T) * N;
    if constexpr (BYTES % 16 == 0) {
        uint4* const to = (uint4*)&pack;
#pragma unroll
        for (int i = 0; i < BYTES / 16; ++i) to[i] = __ldcg((const uint4*)from + i);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) pack.at[i] = __ldcg(from + i);
    }
    return pack;
}

// Dependent launch: a kernel waits before it reads what another one of the program wrote.
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

__device__ inline float fold_warp(float x) {
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
