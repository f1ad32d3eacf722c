// Behind the prelude, in front of texts that work on rows.

// For what a kernel wrote that may still be resident here: a copy in L1 could be older.
template <class T, int N>
__device__ inline Pack<T, N> load_shared_by_kernels(const T* from) {
    Pack<T, N> pack;
    constexpr int BYTES = sizeof(T) * N;
    if constexpr (BYTES % 16 == 0) {
        uint4* const to = (uint4*)&pack;
#pragma unroll
        for (int i = 0; i < BYTES / 16; ++i) to[i] = __ldcg((const uint4*)from + i);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) pack.at[i] = __ldcg(from + i);
    }
    return pack;
}

// Dependent launch: a kernel waits before it reads what another one of the program wrote.
__device__ inline void wait_for_previous() {
#if CALOR_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_start() {
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline float fold_warp(float x) {
#pragma unroll
    for (int distance = 16; 0 < distance; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
