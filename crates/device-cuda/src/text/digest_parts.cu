// BLAKE3 of parts of CALOR_CHUNKS KiB, each as a subtree of the digest of all bytes.
//
// Buffers: bytes, digests of 8 words each. Words: 0 parts, 1 bytes of all together, a multiple of
// 4. A block takes a part: its threads take the values of chunks, then of pairs until one is left.
// A value without a neighbour goes up as it is, which is BLAKE3's tree for any number of chunks.

constexpr unsigned CHUNK_START = 1, CHUNK_END = 2, PARENT = 4;

struct Value { unsigned w[8]; };

__device__ inline Value first_value() {
    return {{0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
             0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u}};
}

__device__ inline unsigned turned(unsigned x, int bits) { return __funnelshift_r(x, x, bits); }

__device__ inline void mix(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned x,
                           unsigned y) {
    a += b + x;
    d = turned(d ^ a, 16);
    c += d;
    b = turned(b ^ c, 12);
    a += b + y;
    d = turned(d ^ a, 8);
    c += d;
    b = turned(b ^ c, 7);
}

// A block of 64 bytes taken into a value.
__device__ inline Value compressed(const Value& value, const unsigned (&block)[16],
                                   unsigned long long counter, unsigned len, unsigned flags) {
    const Value start = first_value();
    unsigned v[16], m[16];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = value.w[i];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[8 + i] = start.w[i];
    v[12] = (unsigned)counter;
    v[13] = (unsigned)(counter >> 32);
    v[14] = len;
    v[15] = flags;
#pragma unroll
    for (int i = 0; i < 16; ++i) m[i] = block[i];
#pragma unroll
    for (int round = 0; round < 7; ++round) {
        mix(v[0], v[4], v[8], v[12], m[0], m[1]);
        mix(v[1], v[5], v[9], v[13], m[2], m[3]);
        mix(v[2], v[6], v[10], v[14], m[4], m[5]);
        mix(v[3], v[7], v[11], v[15], m[6], m[7]);
        mix(v[0], v[5], v[10], v[15], m[8], m[9]);
        mix(v[1], v[6], v[11], v[12], m[10], m[11]);
        mix(v[2], v[7], v[8], v[13], m[12], m[13]);
        mix(v[3], v[4], v[9], v[14], m[14], m[15]);
        const unsigned next[16] = {m[2], m[6],  m[3],  m[10], m[7], m[0],  m[4],  m[13],
                                   m[1], m[11], m[12], m[5],  m[9], m[14], m[15], m[8]};
#pragma unroll
        for (int i = 0; i < 16; ++i) m[i] = next[i];
    }
    Value out;
#pragma unroll
    for (int i = 0; i < 8; ++i) out.w[i] = v[i] ^ v[8 + i];
    return out;
}

// The value of a chunk of so many bytes, 1024 or fewer.
__device__ inline Value value_of_chunk(const unsigned* words, unsigned len,
                                       unsigned long long counter) {
    Value value = first_value();
    const unsigned blocks = (len + 63) / 64;
    for (unsigned at = 0; at < blocks; ++at) {
        const unsigned left = len - 64 * at, here = left < 64 ? left : 64;
        unsigned block[16];
        if (here == 64) {
            const uint4* lines = reinterpret_cast<const uint4*>(words + 16 * at);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint4 line = lines[i];
                block[4 * i] = line.x;
                block[4 * i + 1] = line.y;
                block[4 * i + 2] = line.z;
                block[4 * i + 3] = line.w;
            }
        } else {
#pragma unroll
            for (int i = 0; i < 16; ++i) block[i] = 4 * i < here ? words[16 * at + i] : 0;
        }
        const unsigned flags =
            (at == 0 ? CHUNK_START : 0) | (at + 1 == blocks ? CHUNK_END : 0);
        value = compressed(value, block, counter, here, flags);
    }
    return value;
}

extern "C" __global__ void __launch_bounds__(CALOR_THREADS) calor_digest_parts(
    const unsigned* bytes, unsigned* digests, const __grid_constant__ Words words,
    const unsigned* live, const __grid_constant__ Rules rules) {
    // Word i of every value side by side, so that threads meet no bank twice.
    __shared__ unsigned values[8][CALOR_CHUNKS];
    const long long first = blockIdx.x * (CALOR_CHUNKS * 1024ll), left = words.w[1] - first;
    if (left <= 0) return;
    const unsigned part = left < CALOR_CHUNKS * 1024ll ? (unsigned)left : CALOR_CHUNKS * 1024u;
    const unsigned* from = bytes + first / 4;
    unsigned count = (part + 1023) / 1024;
    for (unsigned chunk = threadIdx.x; chunk < count; chunk += CALOR_THREADS) {
        const unsigned rest = part - 1024 * chunk, len = rest < 1024 ? rest : 1024;
        const Value value = value_of_chunk(from + 256 * chunk, len, first / 1024 + chunk);
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i][chunk] = value.w[i];
    }
    __syncthreads();
    constexpr int TURNS = (CALOR_CHUNKS / 2 + CALOR_THREADS - 1) / CALOR_THREADS;
    while (1 < count) {
        const unsigned pairs = count / 2, odd = count % 2;
        Value next[TURNS + 1];
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            const unsigned pair = turn * CALOR_THREADS + threadIdx.x;
            if (pairs <= pair) continue;
            unsigned block[16];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                block[i] = values[i][2 * pair];
                block[8 + i] = values[i][2 * pair + 1];
            }
            next[turn] = compressed(first_value(), block, 0, 64, PARENT);
        }
        if (odd && threadIdx.x == 0) {
#pragma unroll
            for (int i = 0; i < 8; ++i) next[TURNS].w[i] = values[i][count - 1];
        }
        __syncthreads();
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            const unsigned pair = turn * CALOR_THREADS + threadIdx.x;
            if (pairs <= pair) continue;
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i][pair] = next[turn].w[i];
        }
        if (odd && threadIdx.x == 0) {
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i][pairs] = next[TURNS].w[i];
        }
        __syncthreads();
        count = pairs + odd;
    }
    if (threadIdx.x < 8) digests[8 * blockIdx.x + threadIdx.x] = values[threadIdx.x][0];
}
