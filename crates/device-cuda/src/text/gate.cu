// Gate of a mixture of experts, a block for each row:
// (softmax((LN(x) * w^T + b) / temperature) + smoothing) / (1 + E * smoothing), all f32.
//
// CALOR_D: length of a row, a multiple of 4. CALOR_E: experts, at most 32. CALOR_COLD: 1 over the
// temperature. CALOR_SMOOTHING, CALOR_EPS: of the gate and of its norm. CALOR_PDL: dependent launch.
// Buffers: x, norm_w, norm_b, w [E, D], b, out, aligned to 16 bytes, dense. Words: rows.
// Grid: rows. Block: 1024 threads.

#define THREADS 1024

constexpr int FOURS = CALOR_D / 4, E = CALOR_E;

// The same sum for each thread, in a fixed order. `room` may be used again after the next barrier.
__device__ inline float block_sum(float x, float* room) {
    for (int distance = 16; 0 < distance; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[threadIdx.x % 32];
    for (int distance = 16; 0 < distance; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

extern "C" __global__ void __launch_bounds__(THREADS) calor_gate(
    const float* x, const float* norm_w, const float* norm_b, const float* w, const float* b,
    float* out, const __grid_constant__ Words words, const unsigned* live,
    const __grid_constant__ Rules rules) {
    __shared__ float rooms[2][32];
    __shared__ float parts[E][32];
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    const long long row = blockIdx.x;
    if (live_word(words.w[0], rules.at[0], live) <= row) return;
    const float4* const fours = (const float4*)(x + row * CALOR_D);

    float sum = 0.0f;
    for (int i = thread; i < FOURS; i += THREADS) {
        const float4 it = __ldcg(fours + i);
        sum += it.x + it.y + it.z + it.w;
    }
    const float mean = block_sum(sum, rooms[0]) / CALOR_D;
    float squares = 0.0f;
    for (int i = thread; i < FOURS; i += THREADS) {
        const float4 it = __ldcg(fours + i);
        const float p = it.x - mean, q = it.y - mean, r = it.z - mean, s = it.w - mean;
        squares += p * p + q * q + r * r + s * s;
    }
    const float variance = block_sum(squares, rooms[1]) / CALOR_D;
    const float scale = 1.0f / sqrtf(variance + CALOR_EPS);

    float sums[E] = {};
    for (int i = thread; i < FOURS; i += THREADS) {
        const float4 it = __ldcg(fours + i);
        const float4 gain = ((const float4*)norm_w)[i], shift = ((const float4*)norm_b)[i];
        const float p = (it.x - mean) * scale * gain.x + shift.x;
        const float q = (it.y - mean) * scale * gain.y + shift.y;
        const float r = (it.z - mean) * scale * gain.z + shift.z;
        const float s = (it.w - mean) * scale * gain.w + shift.w;
#pragma unroll
        for (int e = 0; e < E; ++e) {
            const float4 of = ((const float4*)(w + (long long)e * CALOR_D))[i];
            sums[e] += p * of.x + q * of.y + r * of.z + s * of.w;
        }
    }
#pragma unroll
    for (int e = 0; e < E; ++e) {
        for (int distance = 16; 0 < distance; distance /= 2)
            sums[e] += __shfl_xor_sync(0xffffffffu, sums[e], distance);
        if (lane == 0) parts[e][warp] = sums[e];
    }
    __syncthreads();
    if (warp != 0) return;
    // A lane for each expert.
    float logit = __int_as_float(0xff800000);
    if (lane < E) {
        logit = 0.0f;
        for (int i = 0; i < 32; ++i) logit += parts[lane][i];
        logit = (logit + b[lane]) * CALOR_COLD;
    }
    float top = logit;
    for (int distance = 16; 0 < distance; distance /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
    const float raised = lane < E ? expf(logit - top) : 0.0f;
    float all = raised;
    for (int distance = 16; 0 < distance; distance /= 2)
        all += __shfl_xor_sync(0xffffffffu, all, distance);
    if (lane < E)
        out[row * E + lane] = (raised / all + CALOR_SMOOTHING) * (1.0f / (1.0f + E * CALOR_SMOOTHING));
}
