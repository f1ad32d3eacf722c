struct Words { long long w[CALOR_WORDS]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[CALOR_WORDS]; };

// A launch word, or what the live counts make of it.
__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

// Elements in memory: f32, f16 or bf16, which are computed with as f32.
#if CALOR_TYPE == 0
typedef float Element;
__device__ inline float value_of(Element x) { return x; }
__device__ inline Element element_of(float x) { return x; }
#elif CALOR_TYPE == 1
typedef unsigned short Element;
__device__ inline float value_of(Element bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline Element element_of(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#elif CALOR_TYPE == 2
typedef unsigned short Element;
__device__ inline float value_of(Element bits) {
    return __uint_as_float((unsigned)bits << 16);
}
__device__ inline Element element_of(float x) {
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
#else
#error "CALOR_TYPE is 0 (f32), 1 (f16) or 2 (bf16)"
#endif

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T at[N];
};
