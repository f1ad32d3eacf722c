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

struct Words { long long w[14]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[2]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

extern "C" __global__ void __launch_bounds__(256) calor_elementwise(
    const float* a0,
    const float* a1,
    float* a2,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
#if 900 <= __CUDA_ARCH__
    // The next kernel may be set up already; this one reads nothing before the last has ended.
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long e0 = live_word(words.w[0], rules.at[0], live);
    const long long e1 = live_word(words.w[1], rules.at[1], live);
    const unsigned long long item_count = (unsigned long long)(e0 * e1 * 12);
    for (unsigned long long item = blockIdx.x * 256ull + threadIdx.x; item < item_count; item += gridDim.x * 256ull) {
        const int part = (int)(item % 12);
        const unsigned long long point = item / 12;
        const int o1 = (int)(point % e1);
        const unsigned long long rest1 = point / e1;
        const int o0 = (int)(rest1);
        const long long from0 = words.w[2] + o0 * words.w[3] + o1 * words.w[4];
        const long long from1 = words.w[6] + o0 * words.w[7] + o1 * words.w[8];
        const long long to0 = words.w[10] + o0 * words.w[11] + o1 * words.w[12];
        const int lane0 = part * 4;
        const auto p0 = load_pack<4>(a0 + (from0 + lane0));
        const auto p1 = load_pack<4>(a1 + (from1 + lane0));
        Pack<float, 4> q0;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            const float r0 = p0.at[v];
            const float r1 = p1.at[v];
            const float r2 = (r0 + r1);
            q0.at[v] = r2;
        }
        store_pack(a2 + (to0 + lane0), q0);
    }
}
