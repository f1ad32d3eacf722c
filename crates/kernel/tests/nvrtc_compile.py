"""Compiles CUDA C++ files by NVRTC, without a GPU or a driver.

Usage: nvrtc_compile.py LIBNVRTC ARCH[,ARCH...] FILE...

Prints one line for each file and architecture: name, architecture, milliseconds, cubin bytes.
Exits with 1 and the compiler's log when one of them does not compile.
"""

import ctypes
import pathlib
import sys
import time


def main(library: str, archs: str, files: list[str]) -> int:
    # NVRTC opens its builtins by their bare name, which the loader finds only if it is there already.
    for builtins in sorted(pathlib.Path(library).parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(library)
    failed = False
    for name in files:
        source = pathlib.Path(name).read_bytes()
        for arch in archs.split(","):
            start = time.perf_counter()
            cubin, log = compile_source(nvrtc, source, arch)
            spent_ms = (time.perf_counter() - start) * 1e3
            if cubin is None:
                failed = True
                print(f"{name} {arch} FAILED\n{log}")
            else:
                print(f"{pathlib.Path(name).name} {arch} {spent_ms:.0f} {len(cubin)}")
    return int(failed)


def compile_source(nvrtc: ctypes.CDLL, source: bytes, arch: str) -> tuple[bytes | None, str]:
    """The cubin, if there is one, and the log."""
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernel.cu", 0, None, None))
    options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--minimal"]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    log = fetch(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    cubin = None
    if status == 0:
        cubin = fetch(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return cubin, log.decode(errors="replace").rstrip("\0")


def fetch(get_size, get, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    check(get_size(program, ctypes.byref(size)))
    data = ctypes.create_string_buffer(size.value)
    check(get(program, data))
    return data.raw


def check(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"NVRTC status {status}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
