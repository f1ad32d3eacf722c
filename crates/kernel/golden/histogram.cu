__device__ inline long long clamp_index(long long index, long long extent) {
    return index < 0 ? 0 : index < extent ? index : extent - 1;
}

struct Words { long long w[9]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

extern "C" __global__ void __launch_bounds__(1) calor_scatter(
    const int* a0,
    int* a1,
    const __grid_constant__ Words words,
    const unsigned* live,
    const __grid_constant__ Rules rules) {
#if 900 <= __CUDA_ARCH__
    // The next kernel may be set up already; this one reads nothing before the last has ended.
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long e0 = live_word(words.w[0], rules.at[0], live);
    const unsigned long long point_count = (unsigned long long)(e0);
    for (unsigned long long point = 0; point < point_count; ++point) {
        const int o0 = (int)(point);
        const long long from0 = words.w[1] + o0 * words.w[2];
        const long long to0 = words.w[4] + o0 * words.w[5];
        const int r1 = 1;
        for (int k = 0; k < 19; ++k) {
            const int lane = k;
            const int r0 = a0[from0 + lane];
            a1[to0 + clamp_index(r0, words.w[8]) * words.w[7]] = (int)((unsigned)a1[to0 + clamp_index(r0, words.w[8]) * words.w[7]] + (unsigned)r1);
        }
    }
}
