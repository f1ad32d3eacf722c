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

// Texts with one type of elements name it by CALOR_TYPE.
#ifdef CALOR_TYPE
typedef Stored<CALOR_TYPE>::Element Element;
__device__ inline float value_of(Element x) { return Stored<CALOR_TYPE>::value_of(x); }
__device__ inline Element element_of(float x) { return Stored<CALOR_TYPE>::element_of(x); }
#endif

__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }

// Elements that lie side by side: whole lines of 16 bytes where they fill them.
template <class T, int N>
struct alignas(least(sizeof(T) * N, 16)) Pack {
    T at[N];
};
