"""Numbers that follow from a seed, as the crates make them: ChaCha20, and what is drawn from it.

`weights` are those of the fusion (`crates/embed/src/fusion.rs`), `normals` and `orthonormal` those
of the slots' maps (`crates/embed/src/projection.rs`).
"""

import numpy as np

M64 = (1 << 64) - 1


def key(seed):
    """A key of 256 bits from one of 64, by the output function of PCG32."""
    state, out = seed & M64, []
    for _ in range(8):
        state = (state * 0x5851F42D4C957F2D + 0xA17654E46FBE17F3) & M64
        word, turn = ((state >> 18 ^ state) >> 27) & 0xFFFFFFFF, state >> 59
        out.append((word >> turn | word << (32 - turn)) & 0xFFFFFFFF)
    return out


def words(seed, stream, count):
    """The first `count` words of a stream."""
    blocks = np.arange(-(-count // 16), dtype=np.uint64)
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key(seed), 0, 0, stream, stream >> 32]
    begin = [np.full(blocks.size, it & 0xFFFFFFFF, np.uint32) for it in start]
    begin[12], begin[13] = blocks.astype(np.uint32), (blocks >> np.uint64(32)).astype(np.uint32)
    x = [it.copy() for it in begin]

    def turn(at, other, bits):
        x[at] ^= other
        x[at] = x[at] << np.uint32(bits) | x[at] >> np.uint32(32 - bits)

    def quarter(a, b, c, d):
        x[a] += x[b]
        turn(d, x[a], 16)
        x[c] += x[d]
        turn(b, x[c], 12)
        x[a] += x[b]
        turn(d, x[a], 8)
        x[c] += x[d]
        turn(b, x[c], 7)

    for _ in range(10):
        for at in range(4):
            quarter(at, 4 + at, 8 + at, 12 + at)
        for at in range(4):
            quarter(at, 4 + (at + 1) % 4, 8 + (at + 2) % 4, 12 + (at + 3) % 4)
    return np.stack([a + b for a, b in zip(x, begin)], axis=1).ravel()[:count]


def weights(seed, stream, shape):
    """A matrix of Xavier's uniform distribution."""
    rows, columns = shape
    bound = np.sqrt(6.0 / (rows + columns))
    unit = (words(seed, stream, rows * columns) + 0.5) / 2147483648.0 - 1.0
    return (unit * bound).astype(np.float32).reshape(shape)


def normals(seed, stream, count):
    """Standard normal numbers by Box and Muller, cosine first."""
    pairs = words(seed, stream, 2 * (-(-count // 2))).astype(np.float64).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((pairs[:, 0] + 1.0) / 4294967296.0))
    angle = 2.0 * np.pi * pairs[:, 1] / 4294967296.0
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count]


def orthonormal(seed, in_len, out_len):
    """A matrix `[out, in]` with orthonormal columns, or rows where there are fewer of them."""
    count, length = min(in_len, out_len), max(in_len, out_len)
    basis = np.empty((count, length))
    for at in range(count):
        vector = normals(seed, at, length)
        for _ in range(2):
            for before in basis[:at]:
                vector -= (vector @ before) * before
            vector /= np.sqrt(vector @ vector)
        basis[at] = vector
    return (basis.T if in_len <= out_len else basis).astype(np.float32)
