// Rows as codes of one byte with a scale each: codes = x * (HIGHEST / m), scale = m / HIGHEST,
// where m is the largest size in the row, at least 1e-30.
//
// CALOR_CODES: 3 s8 (halves up), 4 e4m3 (to nearest even; from sm_89). CALOR_K: length of a row, a
// multiple of 8. CALOR_TEAM: threads that share a row, a multiple of 32. CALOR_ROWS: rows of a
// block. CALOR_PDL: programmatic dependent launch.
// Buffers: rows, codes, scales, without gaps. Words: rows.
// A row is read once: its team keeps it in registers.

constexpr int PARTS = CALOR_K / 8, WARPS = CALOR_TEAM / 32;
constexpr int EACH = (PARTS + CALOR_TEAM - 1) / CALOR_TEAM;
constexpr float HIGHEST = CALOR_CODES == 4 ? 448.0f : 127.0f;

// Two numbers, the first in the lower byte.
__device__ inline unsigned codes_of(float x, float y) {
#if CALOR_CODES == 4
    unsigned short both;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(both) : "f"(x), "f"(y));
    return both;
#else
    // Rounded twice, as it is defined: never as one multiply-add.
    const int low = (int)fminf(floorf(__fadd_rn(x, 0.5f)), 127.0f);
    const int high = (int)fminf(floorf(__fadd_rn(y, 0.5f)), 127.0f);
    return (low & 0xff) | (high & 0xff) << 8;
#endif
}

extern "C" __global__ void __launch_bounds__(CALOR_TEAM * CALOR_ROWS) calor_quantize_rows(
    const Element* from, uint2* codes, float* scales, const __grid_constant__ Words words,
    const unsigned* live, const __grid_constant__ Rules rules) {
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    typedef Pack<Element, 8> Part;
    const int place = threadIdx.x % CALOR_TEAM;
    const long long row = blockIdx.x * (long long)CALOR_ROWS + threadIdx.x / CALOR_TEAM;
    const bool there = row < live_word(words.w[0], rules.at[0], live);
    const Part* parts = (const Part*)from + row * PARTS;
    Part own[EACH];
    float most = 1e-30f;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int at = place + i * CALOR_TEAM;
        if (!there || PARTS <= at) continue;
        own[i] = parts[at];
#pragma unroll
        for (int e = 0; e < 8; ++e) most = fmaxf(most, fabsf(value_of(own[i].at[e])));
    }
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, distance));
    if (1 < WARPS) {
        __shared__ float of_warps[CALOR_ROWS * WARPS];
        if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = most;
        __syncthreads();
        const int first = threadIdx.x / CALOR_TEAM * WARPS;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) most = fmaxf(most, of_warps[first + warp]);
    }
    if (!there) return;
    if (place == 0) scales[row] = __fdiv_rn(most, HIGHEST);
    const float factor = __fdiv_rn(HIGHEST, most);
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int at = place + i * CALOR_TEAM;
        if (PARTS <= at) continue;
        unsigned pairs[4];
#pragma unroll
        for (int e = 0; e < 4; ++e)
            pairs[e] = codes_of(__fmul_rn(value_of(own[i].at[2 * e]), factor),
                                __fmul_rn(value_of(own[i].at[2 * e + 1]), factor));
        codes[row * PARTS + at] = uint2{pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
    }
}
