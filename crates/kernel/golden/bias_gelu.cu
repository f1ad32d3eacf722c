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

struct Words { long long w[10]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

extern "C" __global__ void __launch_bounds__(256) calor_elementwise(
    const unsigned short* a0,
    const unsigned short* a1,
    unsigned short* a2,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
#if 900 <= __CUDA_ARCH__
    // The next kernel may be set up already; this one reads nothing before the last has ended.
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long e0 = live_word(words.w[0], rules.at[0], live);
    const unsigned long long item_count = (unsigned long long)(e0 * 16);
    for (unsigned long long item = blockIdx.x * 256ull + threadIdx.x; item < item_count; item += gridDim.x * 256ull) {
        const int part = (int)(item % 16);
        const unsigned long long point = item / 16;
        const int o0 = (int)(point);
        const long long from0 = words.w[1] + o0 * words.w[2];
        const long long from1 = words.w[4] + o0 * words.w[5];
        const long long to0 = words.w[7] + o0 * words.w[8];
        const int lane0 = part * 4;
        const float r5 = 0.70710677f;
        const float r8 = 1.0f;
        const float r9 = 0.5f;
        const auto p0 = load_pack<4>(a0 + (from0 + lane0));
        const auto p1 = load_pack<4>(a1 + (from1 + lane0));
        Pack<unsigned short, 4> q0;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            const float r0 = bf16_value(p0.at[v]);
            const float r1 = bf16_value(p1.at[v]);
            const float r2 = (float)r0;
            const float r3 = (float)r1;
            const float r4 = (r2 + r3);
            const float r6 = (r4 * r5);
            const float r7 = erff(r6);
            const float r10 = (r7 + r8);
            const float r11 = (r10 * r9);
            const float r12 = (r4 * r11);
            const float r13 = bf16_value(bf16_bits(r12));
            q0.at[v] = bf16_bits(r13);
        }
        store_pack(a2 + (to0 + lane0), q0);
    }
}
