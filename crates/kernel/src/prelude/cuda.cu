// clamp_index
__device__ inline long long clamp_index(long long index, long long extent) {
    return index < 0 ? 0 : index < extent ? index : extent - 1;
}

// bf16_value
__device__ inline float bf16_value(unsigned short bits) {
    return __uint_as_float((unsigned)bits << 16);
}

// bf16_bits
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

// f16_value
__device__ inline float f16_value(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// f16_bits
__device__ inline unsigned short f16_bits(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// f8_value
__device__ inline float f8_value(unsigned char bits) {
    const unsigned size = bits & 0x7f, sign = (unsigned)(bits & 0x80) << 24;
    if (size == 0x7f) return __uint_as_float(0x7fffffff);
    const float small = (float)size * 0.001953125f;
    const float x = size < 8 ? small : __uint_as_float((size << 20) + (120u << 23));
    return __uint_as_float(__float_as_uint(x) | sign);
}

// f8_bits
__device__ inline unsigned char f8_bits(float x) {
    const unsigned word = __float_as_uint(x), sign = (word >> 24) & 0x80;
    const float size = fabsf(x);
    if (x != x) return (unsigned char)(sign | 0x7f);
    if (448.0f <= size) return (unsigned char)(sign | 0x7e);
    if (size < 0.015625f) return (unsigned char)(sign | (unsigned)rintf(size * 512.0f));
    const unsigned rounded = (word & 0x7fffffff) + 0x7ffff + ((word >> 20) & 1);
    return (unsigned char)(sign | ((rounded - (120u << 23)) >> 20));
}

// whole_number
template <class T, class F>
__device__ inline T whole_number(F x, F lowest, F beyond, T least, T most) {
    return x != x ? T(0) : x <= lowest ? least : beyond <= x ? most : T(x);
}

// int_quotient
template <class T>
__device__ inline T int_quotient(T a, T b) {
    if (b == 0) return 0;
    if (T(-1) < T(0) && b == T(-1)) return T(0ull - (unsigned long long)a);
    return a / b;
}

// int_remainder
template <class T>
__device__ inline T int_remainder(T a, T b) {
    if (b == 0 || (T(-1) < T(0) && b == T(-1))) return 0;
    const T rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? T(rest + b) : rest;
}

// float_remainder
__device__ inline float float_remainder(float a, float b) {
    const float rest = fmodf(a, b);
    return rest != 0.0f && (rest < 0.0f) != (b < 0.0f) ? rest + b : rest;
}
__device__ inline double float_remainder(double a, double b) {
    const double rest = fmod(a, b);
    return rest != 0.0 && (rest < 0.0) != (b < 0.0) ? rest + b : rest;
}

// larger
template <class T>
__device__ inline T larger(T a, T b) {
    return b < a || a != a ? a : b;
}

// smaller
template <class T>
__device__ inline T smaller(T a, T b) {
    return a < b || a != a ? a : b;
}

// shift_left
template <class T, class U>
__device__ inline T shift_left(T a, U distance) {
    return distance < 8 * sizeof(T) ? T((unsigned long long)a << distance) : T(0);
}

// shift_right
template <class T, class U>
__device__ inline T shift_right(T a, U distance) {
    return distance < 8 * sizeof(T) ? T(a >> distance) : a < 0 ? T(-1) : T(0);
}

// philox
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

// Pack load_pack store_pack
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

// Sum
struct Sum {
    __device__ static float join(float a, float b) { return a + b; }
    __device__ static double join(double a, double b) { return a + b; }
    __device__ static bool join(bool a, bool b) { return a || b; }
    template <class T>
    __device__ static T join(T a, T b) { return T((unsigned long long)a + (unsigned long long)b); }
};

// Max
struct Max {
    template <class T>
    __device__ static T join(T a, T b) { return larger(a, b); }
};

// Min
struct Min {
    template <class T>
    __device__ static T join(T a, T b) { return smaller(a, b); }
};

// exchange
template <class T>
__device__ inline T exchange(T x, int distance) {
    return T(__shfl_xor_sync(0xffffffffu, x, distance));
}
template <>
__device__ inline bool exchange(bool x, int distance) {
    return __shfl_xor_sync(0xffffffffu, (int)x, distance) != 0;
}

// fold_team
template <class Fold, int TEAM, class T>
__device__ inline T fold_team(T x) {
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2) x = Fold::join(x, exchange(x, distance));
    if (TEAM == 32) return x;
    __shared__ T warps[TEAM / 32];
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
#pragma unroll
    for (int warp = 1; warp < TEAM / 32; ++warp) x = Fold::join(x, warps[warp]);
    __syncthreads();
    return x;
}
