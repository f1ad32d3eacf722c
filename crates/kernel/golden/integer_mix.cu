template <class T>
__device__ inline T int_quotient(T a, T b) {
    if (b == 0) return 0;
    if (T(-1) < T(0) && b == T(-1)) return T(0ull - (unsigned long long)a);
    return a / b;
}

template <class T>
__device__ inline T int_remainder(T a, T b) {
    if (b == 0 || (T(-1) < T(0) && b == T(-1))) return 0;
    const T rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? T(rest + b) : rest;
}

template <class T>
__device__ inline T larger(T a, T b) {
    return b < a || a != a ? a : b;
}

template <class T>
__device__ inline T smaller(T a, T b) {
    return a < b || a != a ? a : b;
}

template <class T, class U>
__device__ inline T shift_left(T a, U distance) {
    return distance < 8 * sizeof(T) ? T((unsigned long long)a << distance) : T(0);
}

template <class T, class U>
__device__ inline T shift_right(T a, U distance) {
    return distance < 8 * sizeof(T) ? T(a >> distance) : a < 0 ? T(-1) : T(0);
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

struct Words { long long w[13]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

extern "C" __global__ void __launch_bounds__(256) calor_elementwise(
    const int* a0,
    const int* a1,
    int* a2,
    int* a3,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
#if 900 <= __CUDA_ARCH__
    // The next kernel may be set up already; this one reads nothing before the last has ended.
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long e0 = live_word(words.w[0], rules.at[0], live);
    const unsigned long long item_count = (unsigned long long)(e0 * 2);
    for (unsigned long long item = blockIdx.x * 256ull + threadIdx.x; item < item_count; item += gridDim.x * 256ull) {
        const int part = (int)(item % 2);
        const unsigned long long point = item / 2;
        const int o0 = (int)(point);
        const long long from0 = words.w[1] + o0 * words.w[2];
        const long long from1 = words.w[4] + o0 * words.w[5];
        const long long to0 = words.w[7] + o0 * words.w[8];
        const long long to1 = words.w[10] + o0 * words.w[11];
        const int lane0 = part * 4;
        const int r2 = 31;
        const int r3 = 17;
        const int r5 = (int)((unsigned)r3 * (unsigned)r2);
        const auto p0 = load_pack<4>(a0 + (from0 + lane0));
        const auto p1 = load_pack<4>(a1 + (from1 + lane0));
        Pack<int, 4> q0;
        Pack<int, 4> q1;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            const int r0 = p0.at[v];
            const int r1 = p1.at[v];
            const int r4 = (int)((unsigned)r0 + (unsigned)r1);
            const int r6 = (int)((unsigned)r5 + (unsigned)r4);
            const int r7 = (int)((unsigned)r0 - (unsigned)r1);
            const int r8 = (int)((unsigned)r6 * (unsigned)r2);
            const int r9 = (int)((unsigned)r8 + (unsigned)r7);
            const int r10 = (int)((unsigned)r0 * (unsigned)r1);
            const int r11 = (int)((unsigned)r9 * (unsigned)r2);
            const int r12 = (int)((unsigned)r11 + (unsigned)r10);
            const int r13 = int_quotient<int>(r0, r1);
            const int r14 = (int)((unsigned)r12 * (unsigned)r2);
            const int r15 = (int)((unsigned)r14 + (unsigned)r13);
            const int r16 = int_remainder<int>(r0, r1);
            const int r17 = (int)((unsigned)r15 * (unsigned)r2);
            const int r18 = (int)((unsigned)r17 + (unsigned)r16);
            const int r19 = larger<int>(r0, r1);
            const int r20 = (int)((unsigned)r18 * (unsigned)r2);
            const int r21 = (int)((unsigned)r20 + (unsigned)r19);
            const int r22 = smaller<int>(r0, r1);
            const int r23 = (int)((unsigned)r21 * (unsigned)r2);
            const int r24 = (int)((unsigned)r23 + (unsigned)r22);
            const bool r25 = (r0 < r1);
            const int r26 = (int)r25;
            const int r27 = (int)((unsigned)r24 * (unsigned)r2);
            const int r28 = (int)((unsigned)r27 + (unsigned)r26);
            const bool r29 = (r0 <= r1);
            const int r30 = (int)r29;
            const int r31 = (int)((unsigned)r28 * (unsigned)r2);
            const int r32 = (int)((unsigned)r31 + (unsigned)r30);
            const bool r33 = (r0 == r1);
            const int r34 = (int)r33;
            const int r35 = (int)((unsigned)r32 * (unsigned)r2);
            const int r36 = (int)((unsigned)r35 + (unsigned)r34);
            const int r37 = (int)(r0 & r1);
            const int r38 = (int)((unsigned)r36 * (unsigned)r2);
            const int r39 = (int)((unsigned)r38 + (unsigned)r37);
            const int r40 = (int)(r0 | r1);
            const int r41 = (int)((unsigned)r39 * (unsigned)r2);
            const int r42 = (int)((unsigned)r41 + (unsigned)r40);
            const int r43 = (int)(r0 ^ r1);
            const int r44 = (int)((unsigned)r42 * (unsigned)r2);
            const int r45 = (int)((unsigned)r44 + (unsigned)r43);
            const int r46 = shift_left<int>(r0, (unsigned)r1);
            const int r47 = (int)((unsigned)r45 * (unsigned)r2);
            const int r48 = (int)((unsigned)r47 + (unsigned)r46);
            const int r49 = shift_right<int>(r0, (unsigned)r1);
            const int r50 = (int)((unsigned)r48 * (unsigned)r2);
            const int r51 = (int)((unsigned)r50 + (unsigned)r49);
            const int r52 = (int)(0 - (unsigned)r0);
            const int r53 = (int)(r51 ^ r52);
            const int r54 = (r0 < 0 ? (int)(0 - (unsigned)r0) : r0);
            const int r55 = (int)(r53 ^ r54);
            const int r56 = (int)(~r0);
            const int r57 = (int)(r55 ^ r56);
            const bool r58 = (r0 < r1);
            const int r59 = (r58 ? r0 : r1);
            q0.at[v] = r57;
            q1.at[v] = r59;
        }
        store_pack(a2 + (to0 + lane0), q0);
        store_pack(a3 + (to1 + lane0), q1);
    }
}
