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

struct Words { long long w[7]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

extern "C" __global__ void __launch_bounds__(256) calor_elementwise(
    const float* a0,
    float* a1,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
#if 900 <= __CUDA_ARCH__
    // The next kernel may be set up already; this one reads nothing before the last has ended.
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long e0 = live_word(words.w[0], rules.at[0], live);
    const unsigned long long item_count = (unsigned long long)(e0 * 7);
    for (unsigned long long item = blockIdx.x * 256ull + threadIdx.x; item < item_count; item += gridDim.x * 256ull) {
        const int part = (int)(item % 7);
        const unsigned long long point = item / 7;
        const int o0 = (int)(point);
        const long long from6 = words.w[1] + o0 * words.w[2];
        const long long to0 = words.w[4] + o0 * words.w[5];
        const int lane0 = part * 2;
        const int r1 = 3;
        const int r2 = 12;
        const float r7 = -1.0f;
        Pack<float, 2> q0;
        #pragma unroll
        for (int v = 0; v < 2; ++v) {
            const int lane = lane0 + v;
            const int r0 = lane;
            const bool r3 = (r1 <= r0);
            const bool r4 = (r0 < r2);
            const bool r5 = (bool)(r3 & r4);
            float r6 = 0.0f;
            if (r5) { r6 = a0[from6 + lane]; }
            const float r8 = (r5 ? r6 : r7);
            q0.at[v] = r8;
        }
        store_pack(a1 + (to0 + lane0), q0);
    }
}
