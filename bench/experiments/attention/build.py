"""NVRTC compile of a kernel with macros, cached by ctypes."""
import ctypes, glob, os, re, struct, sys
def find():
    for pat in [os.path.dirname(os.environ.get("CALOR_NVRTC", "")), "/opt/torch/.venv/lib/python3*/site-packages/nvidia/cu13/lib", "/usr/local/cuda/lib64"]:
        for d in glob.glob(pat):
            if os.path.exists(d + "/libnvrtc.so.13"): return d
    raise SystemExit("no nvrtc")
TEXT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../crates/device-cuda/src/text")
_lib = None
def lib():
    global _lib
    if _lib is None:
        d = find()
        for b in sorted(glob.glob(d + "/libnvrtc-builtins.so.13*")): ctypes.CDLL(b, mode=ctypes.RTLD_GLOBAL)
        _lib = ctypes.CDLL(d + "/libnvrtc.so.13")
    return _lib
def compile(path, macros, arch="sm_90a"):
    n = lib()
    text = "".join(f"#define CALOR_{k} {v}\n" for k, v in macros.items()) + "#line 1\n" + open(os.path.join(TEXT, os.path.basename(path))).read()
    p = ctypes.c_void_p()
    assert n.nvrtcCreateProgram(ctypes.byref(p), text.encode(), b"kernel.cu", 0, None, None) == 0
    opts = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--minimal", b"--ptxas-options=-v"]
    s = n.nvrtcCompileProgram(p, len(opts), (ctypes.c_char_p * len(opts))(*opts))
    z = ctypes.c_size_t(); n.nvrtcGetProgramLogSize(p, ctypes.byref(z)); b = ctypes.create_string_buffer(z.value); n.nvrtcGetProgramLog(p, b)
    log = b.value.decode(errors="replace"); cubin = None
    if s == 0:
        n.nvrtcGetCUBINSize(p, ctypes.byref(z)); b = ctypes.create_string_buffer(z.value); n.nvrtcGetCUBIN(p, b); cubin = b.raw
    n.nvrtcDestroyProgram(ctypes.byref(p))
    return cubin, log
def brief(log):
    r = re.search(r"Used (\d+) registers", log); sp = re.search(r"(\d+) bytes spill stores", log)
    w = [l for l in log.splitlines() if "C75" in l]
    return f"regs {r.group(1) if r else '?'} spill {sp.group(1) if sp else '?'} {' | '.join(w[:4])}"
BASE = dict(TYPE=2, HEADS=12, KV_HEADS=12, D=64, SCALE="0.125f", EXTRA=0, BIAS=0, LSE=0, REACH=0, PDL=0, LATE=0)
if __name__ == "__main__":
    import time
    def go(f, arch="sm_90a", **m):
        t = time.time(); c, log = compile(f, {**BASE, **m}, arch)
        print(f, arch, {k: v for k, v in m.items()}, f"{(time.time()-t)*1e3:.0f} ms", brief(log) if c else log[:3000], flush=True)
    T = lambda w, mt, bn, st, qr, bl, wg=0, sp=1, late=0: dict(WARPS=w, MTILES=mt, BN=bn, STAGES=st, Q_REGS=0 if wg else qr, BLOCKS=bl, WGMMA=wg, LATE=late)
    go("attention_plain.cu"); go("attention_plain.cu", TYPE=0, D=256, EXTRA=1, BIAS=1, LSE=1, REACH=128); go("attention_plain.cu", arch="sm_75", TYPE=0)
    for a in [(4,2,64,2,1,2),(4,2,32,2,1,3),(4,1,64,2,1,3),(8,1,64,2,1,2),(8,1,64,2,1,2,1),(8,1,128,2,1,1,1),(4,1,64,2,1,4,1)]:
        go("attention_mma.cu", **T(*a))
    for a in [(4,2,64,2,0,2),(4,2,32,2,0,2),(8,1,64,2,1,1,1),(8,1,128,2,1,1,1)]:
        go("attention_mma.cu", D=128, **T(*a))
    go("attention_mma.cu", D=80, EXTRA=1, BIAS=1, LSE=1, REACH=128, **T(4,2,32,2,1,2))
    go("attention_mma.cu", D=96, EXTRA=1, BIAS=1, LSE=1, REACH=128, **T(8,1,64,2,1,1,1))
    go("attention_mma.cu", arch="sm_75", TYPE=1, **T(4,1,32,2,1,2)); go("attention_mma.cu", arch="sm_80", **T(4,2,64,2,1,2)); go("attention_mma.cu", arch="sm_120", **T(4,2,64,2,1,2))
