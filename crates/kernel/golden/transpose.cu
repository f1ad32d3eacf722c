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
    const unsigned long long item_count = (unsigned long long)(e0 * 5);
    for (unsigned long long item = blockIdx.x * 256ull + threadIdx.x; item < item_count; item += gridDim.x * 256ull) {
        const int lane = (int)(item % 5);
        const unsigned long long point = item / 5;
        const int o0 = (int)(point);
        const long long from0 = words.w[1] + o0 * words.w[2];
        const long long to0 = words.w[4] + o0 * words.w[5];
        const float r0 = a0[from0 + lane * 6];
        a1[to0 + lane] = r0;
    }
}
