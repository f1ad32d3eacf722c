__device__ inline long long clamp_index(long long index, long long extent) {
    return index < 0 ? 0 : index < extent ? index : extent - 1;
}

struct Words { long long w[12]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };

__device__ inline long long live_word(long long word, Rule rule, const unsigned* live) {
    if (rule.count < 0) return word;
    const long long follows = (long long)live[rule.count] * rule.scale;
    return follows < word ? follows : word;
}

extern "C" __global__ void __launch_bounds__(32) calor_scatter(
    const float* a0,
    const int* a1,
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
    const int lane = (int)(blockIdx.x * 32 + threadIdx.x);
    if (lane < 33) {
        const unsigned long long point_count = (unsigned long long)(e0);
        for (unsigned long long point = 0; point < point_count; ++point) {
            const int o0 = (int)(point);
            const long long from0 = words.w[1] + o0 * words.w[2];
            const long long from1 = words.w[4] + o0 * words.w[5];
            const long long to0 = words.w[7] + o0 * words.w[8];
            const int r0 = a1[from0];
            const float r1 = a0[from1 + lane];
            a2[to0 + clamp_index(r0, words.w[11]) * words.w[10] + lane] = (a2[to0 + clamp_index(r0, words.w[11]) * words.w[10] + lane] + r1);
        }
    }
}
