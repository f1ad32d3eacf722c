"""Kernels of crates/device-cuda/src/text/nf4*.cu with their macros, tiles and launches."""
import ctypes
import glob
import importlib.util
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[3]
TEXT = pathlib.Path(os.environ.get("NF4_TEXT", ROOT / "crates/device-cuda/src/text"))
SMS = 132
CODEBOOK = [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0,
            0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]


def ceil(a, b):
    return -(-a // b)


def nvrtc():
    path = os.environ.get("CALOR_NVRTC")
    if not path:
        spec = importlib.util.find_spec("nvidia")
        roots = spec.submodule_search_locations if spec else []
        path = next(it for root in roots for it in glob.glob(f"{root}/*/lib/libnvrtc.so.1[23]"))
    for builtins in glob.glob(f"{os.path.dirname(path)}/libnvrtc-builtins.so*"):
        ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(path)


def cubin(source, arch="sm_90a"):
    lib, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"k.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--minimal"]
    options = (ctypes.c_char_p * 3)(*options)
    failed = lib.nvrtcCompileProgram(program, 3, options)
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    image = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetCUBIN(program, image)
    return image.raw


class Variant:
    """One kernel on one problem. `form`: 0 one product, 1 SwiGLU, 2 two products."""

    def __init__(self, kind, n, k, rows, form, transposed, dtype, macros):
        self.kind, self.n, self.k, self.rows = kind, n, k, rows
        self.form, self.transposed, self.dtype, self.macros = form, transposed, dtype, macros
        self.parts = 2 if form else 1
        self.columns = k if transposed else n

    def source(self):
        book = ", ".join(f"{it!r}f" for it in CODEBOOK)
        macros = dict(TYPE=self.dtype, WORDS=4, N=self.n, K=self.k, FORM=self.form,
                      TRANSPOSED=self.transposed, PDL=0, BOOK=book, **self.macros)
        head = "".join(f"#define CALOR_{name} {value}\n" for name, value in macros.items())
        return head + "".join((TEXT / it).read_text()
                              for it in ("prelude.cu", "nf4.cu", f"nf4_{self.kind}.cu"))

    def launch(self):
        """Threads, dynamic shared bytes, blocks along x and y."""
        m = self.macros
        if self.kind == "plain":
            return 256, 0, ceil(self.columns, 64), ceil(self.rows, 16 * m["LANE_ROWS"])
        if self.kind == "skinny":
            groups = self.parts * m["N_TILE"] // 8
            shared = groups * m["WARPS"] * max(m["STAGES"] * 640, m["ROW_TILES"] * 256)
            return 32 * m["WARPS"], shared, ceil(self.n, m["N_TILE"]), 1
        rows, columns = m["WARPS_M"] * m["WARP_ROWS"], m["WARPS_N"] * m["WARP_COLUMNS"]
        tiles, atom = (3, 1024) if m["WARPGROUPS"] else (2, 0)
        shared = (m["STAGES"] * rows + tiles * columns) * 128 + atom
        blocks = m["SPLIT"] * ceil(self.rows, rows) * ceil(self.columns * self.parts, columns)
        return 32 * m["WARPS_M"] * m["WARPS_N"], shared, blocks, 1

    def name(self):
        what = ("linear", "swiglu", "pair")[self.form] if not self.transposed else "transposed"
        numbers = re.sub(r"[{}',]", "", str(self.macros)).replace(": ", "=")
        return f"{what} {self.n}x{self.k}, {self.rows} rows, {self.kind} {numbers}"


def plain(n, k, rows, form=0, transposed=0, dtype=0, lane_rows=None):
    lane_rows = lane_rows or (1 if rows <= 16 else 4)
    return Variant("plain", n, k, rows, form, transposed, dtype, dict(LANE_ROWS=lane_rows))


def skinny(n, k, rows, form=0, dtype=2, n_tile=None, warps=None):
    parts, row_tiles, chunks = 2 if form else 1, ceil(rows, 8), ceil(k, 128)
    warps = warps or min((8, 7, 6, 5), key=lambda it: ceil(chunks, it) * it)
    most, other = {1: (96, 16), 2: (80, 16), 3: (80, 80 // parts // 16 * 16),
                   4: (80, 80 // parts // 16 * 16)}.get(row_tiles, (32, 32 // parts))
    share = ceil(ceil(n, SMS), 16) * 16
    n_tile = n_tile or (share if parts * share <= most else other)
    stages = max(min(ceil(chunks, warps), (96 << 10) // (parts * n_tile // 8 * warps * 640)), 1)
    macros = dict(ROW_TILES=row_tiles, N_TILE=n_tile, WARPS=warps, STAGES=stages, EARLY=1)
    return Variant("skinny", n, k, rows, form, 0, dtype, macros)


def mma(n, k, rows, row_tile, column_tile, form=0, transposed=0, dtype=2, split=1):
    macros = dict(WARPGROUPS=0, WARPS_M=2, WARPS_N=column_tile // 32, WARP_ROWS=row_tile // 2,
                  WARP_COLUMNS=32, STAGES=3, BAND=8, SPLIT=split)
    return Variant("mma", n, k, rows, form, transposed, dtype, macros)


def warpgroups(n, k, rows, row_tile, form=0, transposed=0, dtype=2, split=1):
    groups = 2
    macros = dict(WARPGROUPS=groups, WARPS_M=4 * groups, WARPS_N=1,
                  WARP_ROWS=row_tile // (4 * groups), WARP_COLUMNS=128, STAGES=4, BAND=8,
                  SPLIT=split)
    return Variant("mma", n, k, rows, form, transposed, dtype, macros)


def chosen(n, k, rows, form=0, transposed=0):
    """What the claims choose for bf16 on a GPU with warpgroup products."""
    columns = (2 if form else 1) * (k if transposed else n)
    if not transposed and (rows <= 32 or rows <= 64 and columns <= 132 * 32):
        return skinny(n, k, rows, form)
    tiles = lambda high, wide: ceil(rows, high) * ceil(columns, wide)
    steps = ceil(n if transposed else k, 64)
    split = lambda count, most: next(
        (it for it in (8, 4, 2) if count * it <= most and 2 * it <= steps), 1)
    if 128 < rows and 132 <= tiles(256, 128):
        return warpgroups(n, k, rows, 256, form, transposed)
    if 64 < rows:
        return warpgroups(n, k, rows, 128, form, transposed, split=split(tiles(128, 128), 132))
    return mma(n, k, rows, 64, 64, form, transposed, split=split(tiles(64, 64), 264))


SIZES = [(4096, 4096), (1536, 8960), (8960, 1536)]
VARIANTS = [chosen(n, k, rows, transposed=transposed) for n, k in SIZES
            for transposed in (0, 1) for rows in (1, 16, 32, 64, 128, 512, 4096)]
VARIANTS += [chosen(8960, 1536, rows, 1) for rows in (1, 16, 32, 64, 128, 512, 4096)]
VARIANTS += [chosen(256, 1536, rows, 2) for rows in (1, 16, 64, 512)]
VARIANTS += [plain(4096, 4096, rows) for rows in (1, 512)]
# Odd extents and every split.
VARIANTS += [warpgroups(264, 1088, rows, 128, form, transposed, dtype, split)
             for rows, form, transposed, dtype, split in
             [(100, 0, 0, 1, 2), (300, 0, 1, 2, 4), (129, 1, 0, 2, 8), (70, 2, 0, 1, 8)]]
VARIANTS += [warpgroups(200, 576, 300, 256, form, transposed) for form, transposed in
             [(0, 0), (0, 1), (1, 0), (2, 0)]]
VARIANTS += [mma(264, 1088, rows, 64, 64, form, transposed, dtype, split)
             for rows, form, transposed, dtype, split in
             [(17, 0, 1, 1, 2), (33, 0, 1, 2, 4), (64, 1, 0, 2, 4), (5, 2, 0, 1, 8)]]
VARIANTS += [mma(200, 576, 300, rows, columns, form) for rows, columns, form in
             [(128, 128, 0), (128, 64, 1), (64, 128, 2)]]
VARIANTS += [skinny(264, 1088, rows, form, 1) for rows in (3, 12, 20, 31, 45, 64)
             for form in (0, 1, 2)]
VARIANTS += [plain(77, 35, 90, form, transposed, dtype) for form, transposed, dtype in
             [(0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 0, 0)]]
