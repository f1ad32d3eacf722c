"""Host side of gemm_wgmma: configuration, shared bytes, grid, maps."""
import math
from drv import *
SMS = 132
class Wg:
    def __init__(self, type, n, k, act=0, bias=1, residual=0, rows=128, cols=128, groups=2, alt=1, stages=5, cm=2, cn=1, band=8, pdl=0, outs=2, split=1):
        self.__dict__.update(locals())
    def job(self):
        return ("gemm_wgmma.cu", tuple(dict(TYPE=self.type, N=self.n, K=self.k, ACT=self.act, BIAS=self.bias, RESIDUAL=self.residual,
            ROWS=self.rows, COLUMNS=self.cols, GROUPS=self.groups, ALTERNATE=self.alt, STAGES=self.stages,
            CLUSTER_M=self.cm, CLUSTER_N=self.cn, BAND=self.band, PDL=self.pdl, OUTS=self.outs, SPLIT=self.split).items()), "sm_90a")
    def name(self): return f"{self.rows}x{self.cols}g{self.groups}{'p' if self.alt else 'c'}s{self.stages}cl{self.cm}{self.cn}b{self.band}o{self.outs}" + (f"k{self.split}" if self.split > 1 else "")
    def tile_rows(self): return self.rows * (1 if self.alt else self.groups)
    def shared(self): return 1024 + self.stages * (self.tile_rows() + self.cols) * 128 + self.groups * self.outs * self.rows * 128 + (4 if self.alt else 2) * self.cols * (0, 2, 4)[self.bias] + 16 * (self.stages + 2 * self.outs)
    def load(self, cubins):
        assert self.shared() <= 232448, self.name()
        self.kern = Kernel(cubins[self.job()], "calor_gemm_wgmma", self.shared()); return self
    def call(self, m, A, W, C, bias=None, res=None, rs=None, cs=None, live=None):
        es = A.element_size(); line = 128 // es
        lda, ldc, ldr = A.stride(0), C.stride(0), res.stride(0) if res is not None else 0
        bm, bn = self.tile_rows(), self.cols
        out_t = 1 if self.type == 1 else 2
        maps = tensor_map(A.data_ptr(), self.type, self.k, m, lda * es, (line, bm // self.cn))
        maps2 = tensor_map(W.data_ptr(), self.type, self.k, self.n, self.k * es, (line, bn // self.cm))
        mapc = tensor_map(C.data_ptr(), out_t, self.n, m, ldc * 2, (64, self.rows), 0)
        args = [A.data_ptr(), W.data_ptr()]
        if self.bias: args.append(bias.data_ptr())
        if self.residual: args.append(res.data_ptr())
        args.append(C.data_ptr())
        if self.type == 4: args[2:2] = [rs.data_ptr(), cs.data_ptr()]
        args += [words(m, lda, ldc, ldr), live.data_ptr() if live is not None else 0, rules(4, (0,) if live is not None else ()), maps, maps2, mapc]
        if self.residual: args.append(tensor_map(res.data_ptr(), out_t, self.n, m, ldr * 2, (64, self.rows), 0))
        cl = self.cm * self.cn * self.split
        clusters = -(-(-(-m // bm)) // self.cm) * -(-(-(-self.n // bn)) // self.cn)
        blocks = min(clusters, SMS // cl if self.split == 1 else 1 << 30) * cl
        return self.kern.prepare((blocks, 1, 1), (128 * (self.groups + 1), 1, 1), args)

class Mma:
    def __init__(self, type, out, n, k, act=0, bias=1, residual=0, wm=2, wn=4, wr=64, wc=32, stages=3, band=8, pdl=0):
        self.__dict__.update(locals())
    def job(self):
        return ("gemm_mma.cu", tuple(dict(TYPE=self.type, OUT=self.out, N=self.n, K=self.k, ACT=self.act, BIAS=self.bias, RESIDUAL=self.residual,
            WARPS_M=self.wm, WARPS_N=self.wn, WARP_ROWS=self.wr, WARP_COLUMNS=self.wc, STAGES=self.stages, BAND=self.band, PDL=self.pdl).items()), "sm_90a")
    def name(self): return f"mma {self.wm*self.wr}x{self.wn*self.wc}w{self.wm*self.wn}s{self.stages}"
    def load(self, cub): self.kern = Kernel(cub[self.job()], "calor_gemm_mma", self.stages * (self.wm*self.wr + self.wn*self.wc) * 128); return self
    def call(self, m, A, W, C, bias=None, res=None, rs=None, cs=None, live=None):
        args = [A.data_ptr(), W.data_ptr()] + ([bias.data_ptr()] if self.bias else []) + ([res.data_ptr()] if self.residual else []) + [C.data_ptr()]
        if self.type == 3: args[2:2] = [rs.data_ptr(), cs.data_ptr()]
        args += [words(m, A.stride(0), C.stride(0), res.stride(0) if res is not None else 0), live.data_ptr() if live is not None else 0, rules(4, (0,) if live is not None else ())]
        return self.kern.prepare((-(-m // (self.wm*self.wr)) * -(-self.n // (self.wn*self.wc)), 1, 1), (32*self.wm*self.wn, 1, 1), args)
class Plain:
    def __init__(self, type, n, k, act=0, bias=1, residual=0, wm=4, wn=2, band=8, pdl=0):
        self.__dict__.update(locals())
    def job(self):
        return ("gemm_plain.cu", tuple(dict(TYPE=self.type, N=self.n, K=self.k, ACT=self.act, BIAS=self.bias, RESIDUAL=self.residual,
            WARPS_M=self.wm, WARPS_N=self.wn, BAND=self.band, PDL=self.pdl).items()), "sm_90a")
    def name(self): return f"plain {self.wm*32}x{self.wn*64}"
    def load(self, cub): self.kern = Kernel(cub[self.job()], "calor_gemm_plain"); return self
    def call(self, m, A, W, C, bias=None, res=None, rs=None, cs=None, live=None):
        args = [A.data_ptr(), W.data_ptr()] + ([bias.data_ptr()] if self.bias else []) + ([res.data_ptr()] if self.residual else []) + [C.data_ptr()]
        args += [words(m, A.stride(0), C.stride(0), res.stride(0) if res is not None else 0), live.data_ptr() if live is not None else 0, rules(4, (0,) if live is not None else ())]
        return self.kern.prepare((-(-m // (32*self.wm)) * -(-self.n // (64*self.wn)), 1, 1), (32*self.wm*self.wn, 1, 1), args)
