__device__ inline float bf16_value(unsigned short bits) {
    return __uint_as_float((unsigned)bits << 16);
}

__device__ inline unsigned short bf16_bits(float x) {
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

__device__ inline float f16_value(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ inline unsigned short f16_bits(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ inline float f8_value(unsigned char bits) {
    const unsigned size = bits & 0x7f, sign = (unsigned)(bits & 0x80) << 24;
    if (size == 0x7f) return __uint_as_float(0x7fffffff);
    const float small = (float)size * 0.001953125f;
    const float x = size < 8 ? small : __uint_as_float((size << 20) + (120u << 23));
    return __uint_as_float(__float_as_uint(x) | sign);
}

__device__ inline unsigned char f8_bits(float x) {
    const unsigned word = __float_as_uint(x), sign = (word >> 24) & 0x80;
    const float size = fabsf(x);
    if (x != x) return (unsigned char)(sign | 0x7f);
    if (448.0f <= size) return (unsigned char)(sign | 0x7e);
    if (size < 0.015625f) return (unsigned char)(sign | (unsigned)rintf(size * 512.0f));
    const unsigned rounded = (word & 0x7fffffff) + 0x7ffff + ((word >> 20) & 1);
    return (unsigned char)(sign | ((rounded - (120u << 23)) >> 20));
}

template <class T, class F>
__device__ inline T whole_number(F x, F lowest, F beyond, T least, T most) {
    return x != x ? T(0) : x <= lowest ? least : beyond <= x ? most : T(x);
}

template <class T>
__device__ inline T larger(T a, T b) {
    return b < a || a != a ? a : b;
}

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T at[N];
};
template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* from) {
    if ((unsigned long long)from % sizeof(Pack<T, N>) == 0) return *(const Pack<T, N>*)from;
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = from[i];
    return pack;
}
template <int N, class T>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
    if ((unsigned long long)to % sizeof(Pack<T, N>) == 0) {
        *(Pack<T, N>*)to = pack;
        return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = pack.at[i];
}

struct Words { long long w[46]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

extern "C" __global__ void __launch_bounds__(256) calor_elementwise(
    const float* a0,
    const unsigned char* a1,
    unsigned char* a2,
    const unsigned char* a3,
    unsigned char* a4,
    unsigned char* a5,
    const signed char* a6,
    signed char* a7,
    signed char* a8,
    const unsigned char* a9,
    unsigned char* a10,
    const unsigned short* a11,
    unsigned short* a12,
    const unsigned short* a13,
    unsigned short* a14,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
#if 900 <= __CUDA_ARCH__
    // The next kernel may be set up already; this one reads nothing before the last has ended.
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long e0 = live_word(words.w[0], rules.at[0], live);
    const unsigned long long item_count = (unsigned long long)(e0 * 3);
    for (unsigned long long item = blockIdx.x * 256ull + threadIdx.x; item < item_count; item += gridDim.x * 256ull) {
        const int part = (int)(item % 3);
        const unsigned long long point = item / 3;
        const int o0 = (int)(point);
        const long long from0 = words.w[1] + o0 * words.w[2];
        const long long from1 = words.w[4] + o0 * words.w[5];
        const long long from4 = words.w[10] + o0 * words.w[11];
        const long long from8 = words.w[19] + o0 * words.w[20];
        const long long from12 = words.w[28] + o0 * words.w[29];
        const long long from15 = words.w[34] + o0 * words.w[35];
        const long long from18 = words.w[40] + o0 * words.w[41];
        const long long to0 = words.w[7] + o0 * words.w[8];
        const long long to1 = words.w[13] + o0 * words.w[14];
        const long long to2 = words.w[16] + o0 * words.w[17];
        const long long to3 = words.w[22] + o0 * words.w[23];
        const long long to4 = words.w[25] + o0 * words.w[26];
        const long long to5 = words.w[31] + o0 * words.w[32];
        const long long to6 = words.w[37] + o0 * words.w[38];
        const long long to7 = words.w[43] + o0 * words.w[44];
        const int lane0 = part * 4;
        const auto p0 = load_pack<4>(a0 + (from0 + lane0));
        const auto p1 = load_pack<4>(a1 + (from1 + lane0));
        const auto p4 = load_pack<4>(a3 + (from4 + lane0));
        const auto p8 = load_pack<4>(a6 + (from8 + lane0));
        const auto p12 = load_pack<4>(a9 + (from12 + lane0));
        const auto p15 = load_pack<4>(a11 + (from15 + lane0));
        const auto p18 = load_pack<4>(a13 + (from18 + lane0));
        Pack<unsigned char, 4> q0;
        Pack<unsigned char, 4> q1;
        Pack<unsigned char, 4> q2;
        Pack<signed char, 4> q3;
        Pack<signed char, 4> q4;
        Pack<unsigned char, 4> q5;
        Pack<unsigned short, 4> q6;
        Pack<unsigned short, 4> q7;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            const float r0 = p0.at[v];
            const bool r1 = (p1.at[v] != 0);
            const bool r2 = (r0 != 0);
            const bool r3 = larger<bool>(r1, r2);
            const unsigned char r4 = p4.at[v];
            const unsigned char r5 = whole_number<unsigned char, float>(r0, 0.0f, 256.0f, (unsigned char)0, (unsigned char)255);
            const unsigned char r6 = larger<unsigned char>(r4, r5);
            const unsigned char r7 = (unsigned char)((unsigned)r4 * (unsigned)r5);
            const signed char r8 = p8.at[v];
            const signed char r9 = whole_number<signed char, float>(r0, -128.0f, 128.0f, (signed char)-128, (signed char)127);
            const signed char r10 = larger<signed char>(r8, r9);
            const signed char r11 = (signed char)((unsigned)r8 * (unsigned)r9);
            const float r12 = f8_value(p12.at[v]);
            const float r13 = f8_value(f8_bits(r0));
            const float r14 = larger<float>(r12, r13);
            const float r15 = f16_value(p15.at[v]);
            const float r16 = f16_value(f16_bits(r0));
            const float r17 = larger<float>(r15, r16);
            const float r18 = bf16_value(p18.at[v]);
            const float r19 = bf16_value(bf16_bits(r0));
            const float r20 = larger<float>(r18, r19);
            q0.at[v] = (r3 ? 1 : 0);
            q1.at[v] = r6;
            q2.at[v] = r7;
            q3.at[v] = r10;
            q4.at[v] = r11;
            q5.at[v] = f8_bits(r14);
            q6.at[v] = f16_bits(r17);
            q7.at[v] = bf16_bits(r20);
        }
        store_pack(a2 + (to0 + lane0), q0);
        store_pack(a4 + (to1 + lane0), q1);
        store_pack(a5 + (to2 + lane0), q2);
        store_pack(a7 + (to3 + lane0), q3);
        store_pack(a8 + (to4 + lane0), q4);
        store_pack(a10 + (to5 + lane0), q5);
        store_pack(a12 + (to6 + lane0), q6);
        store_pack(a14 + (to7 + lane0), q7);
    }
}
