template <class T, class U>
__device__ inline T shift_right(T a, U distance) {
    return distance < 8 * sizeof(T) ? T(a >> distance) : a < 0 ? T(-1) : T(0);
}

__device__ inline unsigned philox(unsigned k0, unsigned k1, unsigned c0) {
    unsigned c1 = 0, c2 = 0, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
        const unsigned high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c0;
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
    const unsigned* a0,
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
    const unsigned long long item_count = (unsigned long long)(e0 * 4);
    for (unsigned long long item = blockIdx.x * 256ull + threadIdx.x; item < item_count; item += gridDim.x * 256ull) {
        const int part = (int)(item % 4);
        const unsigned long long point = item / 4;
        const int o0 = (int)(point);
        const long long from0 = words.w[1] + o0 * words.w[2];
        const long long from1 = words.w[4] + o0 * words.w[5];
        const long long to0 = words.w[7] + o0 * words.w[8];
        const int lane0 = part * 4;
        const unsigned r0 = a0[from0];
        const unsigned r1 = a0[from1];
        const int r2 = o0;
        const int r4 = 16;
        const int r5 = (int)((unsigned)r2 * (unsigned)r4);
        const unsigned r9 = 8u;
        const float r12 = 5.9604645e-8f;
        Pack<float, 4> q0;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            const int lane = lane0 + v;
            const int r3 = lane;
            const int r6 = (int)((unsigned)r5 + (unsigned)r3);
            const unsigned r7 = (unsigned)r6;
            const unsigned r8 = philox(r0, r1, r7);
            const unsigned r10 = shift_right<unsigned>(r8, (unsigned)r9);
            const float r11 = (float)r10;
            const float r13 = (r11 * r12);
            q0.at[v] = r13;
        }
        store_pack(a1 + (to0 + lane0), q0);
    }
}
