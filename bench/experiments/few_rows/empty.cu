struct Words { long long w[1]; };
struct Rule { long long count, scale; };
struct Rules { Rule at[1]; };
extern "C" __global__ void calor_empty(unsigned* to, const __grid_constant__ Words words,
    const unsigned* live, const __grid_constant__ Rules rules) {
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
#if CALOR_TOUCH
    // A load that depends on the previous kernel's store.
    to[blockIdx.x * 32 + threadIdx.x % 32] = __ldcg(to + (blockIdx.x + 1) % gridDim.x * 32 + threadIdx.x % 32) + 1;
#endif
}
