"""Compiles variants by NVRTC through ctypes: cubin bytes and log."""
import ctypes, glob, os, pathlib, sys
def lib():
    cands = [os.environ.get("CALOR_NVRTC", "")]
    for p in sys.path + ["/opt/torch/.venv/lib/python3.12/site-packages", "/usr/local/cuda/lib64"]:
        cands += glob.glob(os.path.join(p, "nvidia/*/lib/libnvrtc.so.13*")) + glob.glob(os.path.join(p, "libnvrtc.so.13*"))
    cands = [c for c in cands if os.path.exists(c) and "alt" not in c]
    path = cands[0]
    for b in sorted(glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins.so.*"))):
        if "alt" in b: continue
        ctypes.CDLL(b, mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(path)
_lib = None
def compile(file, macros, arch="sm_90a", verbose=False):
    global _lib
    if _lib is None: _lib = lib()
    n = _lib
    src = "".join(f"#define CALOR_{k} {v}\n" for k, v in macros.items()) + (pathlib.Path(__file__).parents[3] / "crates/device-cuda/src/text" / file).read_text()
    prog = ctypes.c_void_p()
    assert n.nvrtcCreateProgram(ctypes.byref(prog), src.encode(), b"k.cu", 0, None, None) == 0
    opts = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--minimal"]
    if verbose: opts.append(b"--ptxas-options=-v")
    st = n.nvrtcCompileProgram(prog, len(opts), (ctypes.c_char_p * len(opts))(*opts))
    def fetch(a, b):
        s = ctypes.c_size_t(); a(prog, ctypes.byref(s)); d = ctypes.create_string_buffer(s.value); b(prog, d); return d.raw
    log = fetch(n.nvrtcGetProgramLogSize, n.nvrtcGetProgramLog).decode(errors="replace").rstrip("\0")
    cubin = fetch(n.nvrtcGetCUBINSize, n.nvrtcGetCUBIN) if st == 0 else None
    n.nvrtcDestroyProgram(ctypes.byref(prog))
    return cubin, log
if __name__ == "__main__":
    # nv.py FILE ARCH K=V ...
    m = dict(a.split("=") for a in sys.argv[3:])
    c, log = compile(sys.argv[1], m, sys.argv[2], True)
    print(log, "OK" if c else "FAILED", len(c or b""))
    if c: open("/tmp/k.cubin", "wb").write(c)
