// Rotary positions: pairs of each head turned by an angle that grows with the position.
//
// Pair i of a head of CALOR_D elements is (i, i + D/2), or (2i, 2i + 1) where CALOR_INTERLEAVED.
// Its angle is position * theta^(-2i / D). Angle and sum are f32; frequencies are f64, rounded.
//
// Buffers: x [t, heads, D], positions i32 [t], y dense.
// Words: 0 rows t, 1 heads, 2 elements from row to row of x, 3 bits of theta (f64), 4 one forward
// or minus one back. Blocks of 256 threads stride over what is left; a thread keeps its pair where
// they stride over whole heads.

constexpr int HALF = CALOR_D / 2;

extern "C" __global__ void __launch_bounds__(256) calor_rope(
    const Element* x, const int* positions, Element* y, const __grid_constant__ Words words,
    const unsigned* live, const __grid_constant__ Rules rules) {
#if CALOR_PDL
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const long long heads = words.w[1];
    const long long all = live_word(words.w[0], rules.at[0], live) * heads * HALF;
    const double theta = __longlong_as_double(words.w[3]);
    const float sign = (float)words.w[4];
    const long long step = gridDim.x * 256ll;
    int last = -1;
    float frequency = 0.0f;
    for (long long item = blockIdx.x * 256ll + threadIdx.x; item < all; item += step) {
        const long long head = item / HALF, row = head / heads;
        const int pair = (int)(item - head * HALF);
        if (pair != last) frequency = (float)pow(theta, -2.0 * pair / CALOR_D);
        last = pair;
        float sine, cosine;
        sincosf((float)positions[row] * frequency, &sine, &cosine);
        sine *= sign;
        const long long in_row = (head - row * heads) * CALOR_D;
#if CALOR_INTERLEAVED
        const int first = 2 * pair, second = first + 1;
#else
        const int first = pair, second = pair + HALF;
#endif
        const Element* from = x + row * words.w[2] + in_row;
        Element* to = y + row * heads * CALOR_D + in_row;
        const float a = value_of(from[first]), b = value_of(from[second]);
        to[first] = element_of(a * cosine - b * sine);
        to[second] = element_of(b * cosine + a * sine);
    }
}
