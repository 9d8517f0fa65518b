"""ggml's product of a q4_0 weight, repacked for the processor, with f32 rows: its public C functions, by ctypes."""

import ctypes
import itertools

import torch

F32, Q4_0 = 0, 2  # ggml_type


class InitParameters(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Library:
    """The shared library of ggml's CPU back end, and those that it needs, with one thread."""

    def __init__(self, path):
        self._library = ctypes.CDLL(path)
        registry = self._pointer("ggml_backend_cpu_reg")
        device = self._pointer("ggml_backend_reg_dev_get", registry, 0)
        extra = self._pointer("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
        buffers = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(extra)(device)
        self._library.ggml_backend_buft_name.restype = ctypes.c_char_p
        names = {}
        for buffer in itertools.takewhile(bool, buffers):
            names[self._library.ggml_backend_buft_name(ctypes.c_void_p(buffer))] = buffer
        self._repacked = names[b"CPU_REPACK"]
        self._plain = self._pointer("ggml_backend_cpu_buffer_type")
        self._backend = self._pointer("ggml_backend_cpu_init")
        self._call("ggml_backend_cpu_set_n_threads", self._backend, 1)

    def _pointer(self, name, *arguments):
        function = getattr(self._library, name)
        function.restype = ctypes.c_void_p
        return self._convert(function, arguments)

    def _call(self, name, *arguments):
        return self._convert(getattr(self._library, name), arguments)

    @staticmethod
    def _convert(function, arguments):
        return function(*(ctypes.c_void_p(a) if isinstance(a, int) and a > 1 << 31 else a for a in arguments))

    def _tensors(self, buffer, make):
        """What make(context) gives, its tensors in memory of that kind."""
        context = self._pointer("ggml_init", InitParameters(1 << 20, None, True))
        made = make(context)
        if not self._pointer("ggml_backend_alloc_ctx_tensors_from_buft", context, buffer):
            raise MemoryError("ggml has no memory for its tensors")
        return made

    def product(self, x, weight):
        """A function that computes x · weight^T, of f32 tensors, and one that gives the result."""
        (m, k), n = x.shape, len(weight)
        size = ctypes.c_int64
        blocks = torch.empty(n * k // 32 * 18, dtype=torch.uint8)
        quantised = (Q4_0, weight.data_ptr(), blocks.data_ptr(), size(0), size(n), size(k), None)
        self._call("ggml_quantize_chunk", *quantised)

        def new(context, kind, rows):
            return self._pointer("ggml_new_tensor_2d", context, kind, size(k), size(rows))

        w = self._tensors(self._repacked, lambda context: new(context, Q4_0, n))
        self._call("ggml_backend_tensor_set", w, blocks.data_ptr(), ctypes.c_size_t(0), ctypes.c_size_t(blocks.nbytes))

        def graph(context):
            rows = new(context, F32, m)
            out = self._pointer("ggml_mul_mat", context, w, rows)
            made = self._pointer("ggml_new_graph", context)
            self._call("ggml_build_forward_expand", made, out)
            return rows, out, made

        rows, out, made = self._tensors(self._plain, graph)
        self._call("ggml_backend_tensor_set", rows, x.data_ptr(), ctypes.c_size_t(0), ctypes.c_size_t(x.nbytes))

        def result():
            y = torch.empty(m, n)
            self._call("ggml_backend_tensor_get", out, y.data_ptr(), ctypes.c_size_t(0), ctypes.c_size_t(y.nbytes))
            return y

        return lambda: self._call("ggml_backend_graph_compute", self._backend, made), result
