// The k largest of each row, divided by their sum, and their indices; a warp for each row.
//
// CALOR_E: numbers of a row, at most 32. CALOR_K: how many. CALOR_PDL: dependent launch.
// Buffers: q f32 [rows, E], weights f32 [rows, E], indices i32 [rows, K]. Words: rows.
// Grid: ceil(rows / 8). Block: 256 threads.

extern "C" __global__ void __launch_bounds__(256) calor_top_k(
    const float* q, float* weights, int* indices, const __grid_constant__ Words words,
    const unsigned* live, const __grid_constant__ Rules rules) {
    const int lane = threadIdx.x % 32;
    const long long row = blockIdx.x * 8ll + threadIdx.x / 32;
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    if (live_word(words.w[0], rules.at[0], live) <= row) return;
    const float own = lane < CALOR_E ? __ldcg(q + row * CALOR_E + lane) : 0.0f;
    // Of equal numbers the lower index comes first.
    int rank = 0;
#pragma unroll
    for (int i = 0; i < CALOR_E; ++i) {
        const float other = __shfl_sync(0xffffffffu, own, i);
        rank += own < other || (own == other && i < lane);
    }
    const bool chosen = lane < CALOR_E && rank < CALOR_K;
    const float kept = chosen ? own : 0.0f;
    float sum = kept;
    for (int distance = 16; 0 < distance; distance /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (lane < CALOR_E) weights[row * CALOR_E + lane] = kept / sum;
    if (chosen) indices[row * CALOR_K + rank] = lane;
}
