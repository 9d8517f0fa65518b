"""The operator: what a caller passes is checked, and a product computes it."""

import weakref

import torch
from torch import Tensor

import bitloom
from bitloom import UserError
from bitloom.torch.operator import is_eager
from bitloom.torch.shapes import rows

from .config import BYTES, DTYPES, FLOATS, MatmulConfig
from .formats import FORMATS
from .products import product_of


def auto_detect_nvidia_target() -> str:
    """What a product without a target runs on: "cuda" where there is a GPU, else "cpu"."""
    return "cpu" if bitloom.cuda_unavailable() else "cuda"


def _device_named(target: str | None) -> str:
    name = auto_detect_nvidia_target() if target is None else str(target)
    for device, starts in (("cpu", ("cpu", "llvm")), ("cuda", ("cuda", "nvidia"))):
        if name.startswith(starts):
            return device
    raise UserError(f"Matmul: argument target: expected cpu or cuda, got {name!r}")


def _nothing() -> None:
    return None


class _Kept:
    """What was made of a call's tensors, which it does not keep alive: as long as they are the same, unchanged."""

    __slots__ = ("operands", "device", "W", "address", "bias", "scale", "scale_version", "zeros", "zeros_version")

    def __init__(self, operands, device, W, scale, zeros, bias):
        self.operands, self.device, self.address = operands, device, W.data_ptr()
        self.W = weakref.ref(W)
        self.bias = _nothing if bias is None else weakref.ref(bias)
        self.scale, self.scale_version = self._seen(scale)
        self.zeros, self.zeros_version = self._seen(zeros)

    @staticmethod
    def _seen(tensor) -> tuple:
        if tensor is None:
            return _nothing, None
        return weakref.ref(tensor), (tensor._version, tensor.data_ptr())

    def is_of(self, device, W, scale, zeros, bias) -> bool:
        return (
            self.W() is W
            and self.scale() is scale
            and self.zeros() is zeros
            and self.bias() is bias
            and W.data_ptr() == self.address
            and device == self.device
            and (scale is None or (scale._version, scale.data_ptr()) == self.scale_version)
            and (zeros is None or (zeros._version, zeros.data_ptr()) == self.zeros_version)
        )


class Matmul:
    """output = A · dequantised(W)^T + bias, as a MatmulConfig says.

    target: "cpu" or "cuda", which only says where the configuration must run; by default cuda where there is a GPU.
    The other arguments are BitBLAS's; there is nothing to tune. UserError, at once, for what no kernel of the target
    does.
    """

    def __init__(
        self,
        config: MatmulConfig,
        name: str = "matmul",
        target: str | None = None,
        enable_tuning: bool = True,
        from_database: bool = False,
        backend: str = "tir",
    ):
        self.config, self.name = config, name
        self.target = _device_named(target)
        self.product = product_of(config, self.target)
        self.bit = FORMATS[config.W_dtype].bits if config.W_dtype in FORMATS else 8 * DTYPES[config.W_dtype].itemsize
        self.torch_output_dtype = DTYPES[config.out_dtype]
        self._takes = {DTYPES[config.A_dtype]}
        if config.A_dtype in BYTES and not config.is_native and config.out_dtype in FLOATS:
            self._takes |= {DTYPES[name] for name in FLOATS}
        self._columns, self._rows = config.K, config.M if type(config.M) is int else None
        self._kept: _Kept | None = None  # of the last call

    def __getattr__(self, name: str):
        """M, N, K, A_dtype and all other fields of the configuration."""
        if name != "config" and name in MatmulConfig.__dataclass_fields__:
            return getattr(self.config, name)
        raise AttributeError(f"'Matmul' object has no attribute '{name}'")

    def __reduce__(self):
        """Copies and pickles are made anew: a product is what its configuration and target say."""
        return type(self), (self.config, self.name, self.target)

    def __repr__(self) -> str:
        config = self.config
        return f"bitloom.Matmul({config.A_dtype} x {config.W_dtype}, N={config.N}, K={config.K}, on {self.target})"

    def hardware_aware_finetune(self, *arguments, **named) -> None:
        """Nothing: configurations are computed, not searched."""

    def retrieve_weight_shape(self) -> list[int]:
        return list(self.product.weight_shape)

    def transform_weight(
        self, weight: Tensor, scale: Tensor | None = None, zeros: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Packs a weight for forward: i8 of retrieve_weight_shape(), on the weight's device.

        weight: the codes, integers of any type (an 8-bit float's also as such a tensor), of (N, K), or (K, N) for the
        layout nn; with a W of A's type the matrix itself. The others are not looked at, and go to forward as they are.
        UserError: another shape, or codes that W_dtype has not.
        """
        config = self.config
        shape = (config.N, config.K) if config.layout == "nt" else (config.K, config.N)
        if tuple(weight.shape) != shape:
            raise UserError(f"Matmul: argument weight: expected shape {shape}, got {tuple(weight.shape)}")
        if config.layout == "nn" and not config.is_native:
            weight = weight.t()
        return self.product.pack(weight.detach())

    def transform_scale(self, scale: Tensor, tensor_scale: Tensor | float = 1.0) -> Tensor:
        """Scales for forward, f32 of (N, groups): those of the blocks, floats or the bytes that W_dtype stores, times
        one for the whole matrix, as nvfp4 has it. Where there is none, forward takes scale as it is."""
        return FORMATS[self.config.W_dtype].scales(scale) * tensor_scale

    def _say(self, argument: str, expected: object, got: object) -> None:
        raise UserError(f"Matmul: argument {argument}: expected {expected}, got {got}")

    def _check_rows(self, A: Tensor, output: Tensor | None) -> None:
        shape = A.shape
        if A.dtype not in self._takes:
            self._say("A", " or ".join(sorted(map(str, self._takes))), A.dtype)
        if not shape or shape[-1] != self._columns:
            self._say("A", f"{self._columns} in its last dimension", f"shape {tuple(shape)}")
        if self._rows is not None and shape[:-1].numel() != self._rows:
            self._say("A", f"{self._rows} rows, as M says", shape[:-1].numel())
        if output is not None:
            wanted = (*shape[:-1], self.config.N)
            if output.shape != wanted or output.dtype != self.torch_output_dtype:
                got = f"{output.dtype} of {tuple(output.shape)}"
                self._say("output", f"{self.torch_output_dtype} of {wanted}", got)
            if output.device != A.device:
                self._say("output", f"a tensor on {A.device}", f"one on {output.device}")

    def _check_weight(self, W: Tensor, bias: Tensor | None, device: torch.device) -> None:
        config, product = self.config, self.product
        if device.type not in product.devices:
            self._say("A", f"a tensor on {' or '.join(product.devices)}", f"one on {device}")
        if W.dtype != product.weight_dtype or tuple(W.shape) != product.weight_shape:
            wanted = f"{product.weight_dtype} of {product.weight_shape}, as transform_weight gives it"
            self._say("W", wanted, f"{W.dtype} of {tuple(W.shape)}")
        if not W.is_contiguous():
            self._say("W", "a contiguous tensor", f"one of strides {W.stride()}")
        if (bias is not None) != config.with_bias:
            wanted, got = ("one", "none") if config.with_bias else ("none", "one")
            self._say("bias", f"{wanted}, as with_bias says", got)
        if bias is not None:
            right = bias.dtype.is_floating_point or config.out_dtype not in FLOATS
            if tuple(bias.shape) != (config.N,) or not right:
                self._say("bias", f"{config.out_dtype} of {(config.N,)}", f"{bias.dtype} of {tuple(bias.shape)}")
        for argument, value in (("W", W), ("bias", bias)):
            if value is not None and value.device != device:
                self._say(argument, f"a tensor on {device}", f"one on {value.device}")

    def _operands(self, device, W: Tensor, scale: Tensor | None, zeros: Tensor | None, bias: Tensor | None) -> tuple:
        """What the product takes for them: checked and made once, and kept as long as the same tensors come."""
        kept = None if torch.compiler.is_compiling() else self._kept
        if kept is not None and kept.is_of(device, W, scale, zeros, bias):
            return kept.operands
        self._check_weight(W, bias, device)
        operands = self.product.operands(W, scale, zeros, device)
        given = [each for each in (scale, zeros) if each is not None]
        if is_eager(W, *given) and not any(each.is_inference() for each in given):
            self._kept = _Kept(operands, device, W, scale, zeros, bias)
        return operands

    def _added(self, bias: Tensor | None) -> Tensor | None:
        """The bias, if the product adds it: of the type of its sums, and without a gradient of its own."""
        if bias is None or bias.dtype != self.product.sums or (bias.requires_grad and torch.is_grad_enabled()):
            return None
        return bias

    def forward(
        self,
        A: Tensor,
        W: Tensor,
        scale: Tensor | None = None,
        zeros: Tensor | None = None,
        bias: Tensor | None = None,
        output: Tensor | None = None,
    ) -> Tensor:
        """A: (..., K), of any strides; with an A_dtype of int8 and floats as out_dtype also of floats, which are made
        int8 row by row. W: what transform_weight gave. scale, zeros: as MatmulConfig says, there when it does. bias:
        (N,). output: (..., N) of out_dtype, to write to. Returns it, or a new one. Gradients flow to a float A from a W
        of another type. UserError, before anything is written, for arguments that are not so."""
        self._check_rows(A, output)
        operands = self._operands(A.device, W, scale, zeros, bias)
        is_matrix = A.dim() == 2
        added = bias if bias is None else self._added(bias)
        result = self.product(A if is_matrix else rows(A), *operands, added)
        if added is not bias:
            result = result + bias
        if result.dtype != self.torch_output_dtype:
            result = result.to(self.torch_output_dtype)
        if not is_matrix:
            result = result.view(*A.shape[:-1], self.config.N)
        return result if output is None else output.copy_(result)

    __call__ = forward

    def explain(self, A: Tensor, W: Tensor, scale=None, zeros=None, bias=None, output=None, target=None) -> str:
        """Which kernels forward runs for such arguments, and what bitloom.explain says of each."""
        self._check_rows(A, output)
        config, product = self.config, self.product
        group = "a row" if config.group == config.K else config.group
        lines = [
            f"matmul    {config.A_dtype} x {config.W_dtype} -> {config.out_dtype}, N = {config.N}, K = {config.K}",
            f"scales    {f'one for {group}' if config.with_scaling else 'none'}"
            + (f", zeros {config.zeros_mode}" if config.with_zeros else ""),
            f"packing   {product.packing or 'none: a matrix'}",
        ]
        with torch.no_grad():
            operands = self._operands(A.device, W, scale, zeros, bias)
            calls = list(product.calls(rows(A.detach()), *operands, self._added(bias)))
        lines.append(f"runs      {', then '.join(name for name, _, _ in calls)}")
        texts = {name: bitloom.explain(name, *given, target=target, **named) for name, given, named in calls}
        return "\n".join(lines) + "\n" + "\n".join(texts.values())

    def tune(self, A: Tensor, W: Tensor, scale=None, zeros=None, bias=None, output=None, runs=5, file=None) -> list:
        """Tunes the kernels that forward runs for such arguments: what bitloom.tune says of each that can be."""
        self._check_rows(A, output)
        tunable = bitloom.kernels()
        with torch.no_grad():
            calls = self.product.calls(rows(A.detach()), *self._operands(A.device, W, scale, zeros, bias))
            return [
                bitloom.tune(name, *given, runs=runs, file=file, **named)
                for name, given, named in calls
                if tunable[name].tunables
            ]
