template <class T, class F>
__device__ inline T whole_number(F x, F lowest, F beyond, T least, T most) {
    return x != x ? T(0) : x <= lowest ? least : beyond <= x ? most : T(x);
}

template <class T>
__device__ inline T int_quotient(T a, T b) {
    if (b == 0) return 0;
    if (T(-1) < T(0) && b == T(-1)) return T(0ull - (unsigned long long)a);
    return a / b;
}

__device__ inline float float_remainder(float a, float b) {
    const float rest = fmodf(a, b);
    return rest != 0.0f && (rest < 0.0f) != (b < 0.0f) ? rest + b : rest;
}
__device__ inline double float_remainder(double a, double b) {
    const double rest = fmod(a, b);
    return rest != 0.0 && (rest < 0.0) != (b < 0.0) ? rest + b : rest;
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
    const double* a0,
    const long long* a1,
    double* a2,
    long long* a3,
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
        const int lane = (int)(item % 3);
        const unsigned long long point = item / 3;
        const int o0 = (int)(point);
        const long long from0 = words.w[1] + o0 * words.w[2];
        const long long from1 = words.w[4] + o0 * words.w[5];
        const long long to0 = words.w[7] + o0 * words.w[8];
        const long long to1 = words.w[10] + o0 * words.w[11];
        const double r0 = a0[from0 + lane];
        const long long r1 = a1[from1 + lane];
        const double r2 = sin(r0);
        const double r3 = fabs(r2);
        const double r4 = exp(r3);
        const double r5 = fabs(r4);
        const double r6 = cos(r5);
        const double r7 = fabs(r6);
        const double r8 = tanh(r7);
        const double r9 = fabs(r8);
        const double r10 = erf(r9);
        const double r11 = fabs(r10);
        const double r12 = sqrt(r11);
        const double r13 = fabs(r12);
        const double r14 = (double)r1;
        const double r15 = float_remainder(r14, r0);
        const double r16 = pow(r13, r0);
        const double r17 = log(r16);
        const double r18 = (r17 - r15);
        const double r19 = floor(r18);
        const long long r20 = whole_number<long long, double>(r19, -9.223372036854776e18, 9.223372036854776e18, (-9223372036854775807ll - 1), 9223372036854775807ll);
        const long long r21 = int_quotient<long long>(r20, r1);
        a2[to0 + lane] = r18;
        a3[to1 + lane] = r21;
    }
}
