"""NVRTC by ctypes: source text and macros to cubin. Shared by the check here and the harness."""
import ctypes, glob, os, pathlib

_lib = None

def lib():
    global _lib
    if _lib is None:
        import sys
        places = [os.path.dirname(os.environ.get("CALOR_NVRTC", ""))]
        places += glob.glob("/opt/torch/.venv/lib/python3*/site-packages/nvidia/cu13/lib")
        places += glob.glob("/opt/torch/.venv/lib/python3*/site-packages/nvidia/*/lib")
        places += ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"]
        for place in places:
            found = sorted(glob.glob(place + "/libnvrtc.so.13*"))
            if found:
                for b in sorted(glob.glob(place + "/libnvrtc-builtins.so.13*")):
                    ctypes.CDLL(b, mode=ctypes.RTLD_GLOBAL)
                _lib = ctypes.CDLL(found[0])
                return _lib
        raise RuntimeError("no nvrtc")
    return _lib

def text(name, macros):
    here = pathlib.Path(__file__).parent
    macros = dict(macros); no_wait = macros.pop("NO_WAIT", 0); trace = macros.pop("TRACE", 0); macros = macros.items()
    head = "".join(f"#define CALOR_{k} {v}\n" for k, v in macros)
    kept = here.parents[2] / "crates/device-cuda/src/text"
    place = next(it for it in (here, kept) if (it / f"{name}.cu").exists())
    body = (place / f"{name}.cu").read_text()
    if no_wait: body = body.replace("griddepcontrol.wait;", "")
    if trace: body = traced(name, body)
    return head + body

def traced(name, body):
    """Time stamps of thread 0 of each block, written through `live`: for the profile only."""
    mark = lambda i: f"    STAMP({i});\n"
    body = body.replace('extern "C" __global__', """__device__ inline unsigned long long stamp() {
    unsigned long long t; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t) :: "memory"); return t; }
#define STAMP(i) if (threadIdx.x == 0) ((unsigned long long*)live)[blockIdx.x * 8 + i] = stamp()
extern "C" __global__""", 1)
    if name == "skinny_gemm":
        at = body.index("calor_skinny_gemm(")
        h, b = body[:at], body[at:]
        b = b.replace("    const int thread = (int)threadIdx.x;\n", "    const int thread = (int)threadIdx.x;\n" + mark(0), 1)
        b = b.replace("#if CALOR_LIVE_EARLY\n    wait_for_previous();\n", "#if CALOR_LIVE_EARLY\n" + mark(1) + "    wait_for_previous();\n" + mark(2), 1)
        b = b.replace("#if CALOR_BULK\n    wait_groups<0>();", mark(3) + "#if CALOR_BULK\n    wait_groups<0>();", 1) if 1 else b.replace("    // Nobody reads the queue any more", mark(3) + "    // Nobody reads the queue any more", 1)
        b = b.replace("    const auto meet = [&]", mark(4) + "    const auto meet = [&]", 1)
        b = b.replace("    Four finished[OWN_TURNS];", mark(5) + "    Four finished[OWN_TURNS];", 1)
        b = b[:b.rindex("#endif\n}")] + mark(6) + "#endif\n}\n"
        body = h + b
    else:
        b = body.replace("    const int m = (int)live_word", mark(0) + mark(1) + "    const int m = (int)live_word", 1)
        b = b.replace('    asm volatile("griddepcontrol.wait;" ::: "memory");\n#endif\n', '    asm volatile("griddepcontrol.wait;" ::: "memory");\n#endif\n' + mark(2), 1)
        b = b.rstrip()[:-1] + mark(3) + mark(4) + mark(5) + mark(6) + "}\n"
        body = b
    return body

def compile_text(source, arch="sm_90a"):
    n = lib()
    p = ctypes.c_void_p()
    assert n.nvrtcCreateProgram(ctypes.byref(p), source.encode(), b"k.cu", 0, None, None) == 0
    opts = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--minimal"]
    rc = n.nvrtcCompileProgram(p, len(opts), (ctypes.c_char_p * len(opts))(*opts))
    size = ctypes.c_size_t()
    n.nvrtcGetProgramLogSize(p, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value); n.nvrtcGetProgramLog(p, log)
    if rc: raise RuntimeError(log.value.decode())
    n.nvrtcGetCUBINSize(p, ctypes.byref(size))
    out = ctypes.create_string_buffer(size.value); n.nvrtcGetCUBIN(p, out)
    n.nvrtcDestroyProgram(ctypes.byref(p))
    return out.raw

def job(args):
    name, macros, arch = args
    try:
        return compile_text(text(name, macros), arch)
    except RuntimeError as e:
        return str(e)
