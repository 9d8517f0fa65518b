"""A layer of low-bit weights."""

import numpy as np
import torch
from torch import Tensor, nn

import bitloom
from bitloom import PackedTensor, UserError

from .checkpoints import unpack_awq, unpack_gptq, unpack_gptq_zeros
from .config import DTYPES, FLOATS, MatmulConfig
from .formats import FORMATS
from .matmul import Matmul
from .numbers import pack_zeros


class Linear(nn.Module):
    """y = x · dequantised(weight)^T + bias, with BitBLAS's arguments (MatmulConfig tells what they mean).

    Buffers: qweight as Matmul.transform_weight gives it (weight, where W is of A's type), scales (out_features, groups)
    and zeros where the configuration has them, bias. They start at zero; load_and_transform_weight or repack_from_*
    fills them, or load_state_dict.
    """

    opt_M = [1, 16, 32, 64, 128, 256, 512]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        A_dtype: str = "float16",
        W_dtype: str = "float16",
        accum_dtype: str = "float16",
        out_dtype: str = "float16",
        group_size: int = -1,
        with_scaling: bool | None = None,
        with_zeros: bool = False,
        zeros_mode: str | None = None,
        opt_M: int | list[int] | None = opt_M,
        enable_tuning: bool = True,
        fast_decoding: bool | None = None,
        propagate_b: bool = False,
        target: str | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.config = MatmulConfig(
            M=opt_M,
            N=out_features,
            K=in_features,
            A_dtype=A_dtype,
            W_dtype=W_dtype,
            accum_dtype=accum_dtype,
            out_dtype=out_dtype,
            with_bias=bias,
            group_size=group_size,
            with_scaling=with_scaling,
            with_zeros=with_zeros,
            zeros_mode=zeros_mode,
            fast_decoding=fast_decoding,
            propagate_b=propagate_b,
        )
        self.bitblas_matmul = Matmul(self.config, target=target, enable_tuning=enable_tuning)
        self.consistent = self.config.is_native
        product = self.bitblas_matmul.product
        dtype = DTYPES[A_dtype] if A_dtype in FLOATS else torch.float32
        self.torch_dtype = DTYPES[A_dtype]

        def buffer(name, shape, of):
            self.register_buffer(name, torch.zeros(shape, dtype=of))

        buffer("weight" if self.consistent else "qweight", product.weight_shape, product.weight_dtype)
        shapes = {} if self.consistent else product.numbers.shapes()
        if self.config.with_scaling:
            buffer("scales", shapes["scale"], dtype)
        if self.config.with_zeros:
            buffer("zeros", shapes["zeros"], torch.int8 if self.config.zeros_mode == "quantized" else dtype)
        self.register_buffer("bias", torch.zeros(out_features, dtype=DTYPES[out_dtype]) if bias else None)
        self._names = (
            "weight" if self.consistent else "qweight",
            "scales" if self.config.with_scaling else None,
            "zeros" if self.config.with_zeros else None,
            "bias",
        )

    def extra_repr(self) -> str:
        config = self.config
        group = f", group_size={config.group_size}" if config.with_scaling else ""
        return f"{self.in_features}, {self.out_features}, {config.A_dtype} x {config.W_dtype}{group}"

    def warmup(self, topk: int = 20) -> None:
        """Nothing: there is nothing to tune."""

    def forward(self, A: Tensor, output: Tensor | None = None) -> Tensor:
        """A: (..., in_features), floats of another type than A_dtype are converted. Returns (..., out_features)."""
        matmul = self.bitblas_matmul
        if A.dtype not in matmul._takes and A.dtype.is_floating_point:
            A = A.to(self.torch_dtype)
        return matmul.forward(A, *map(self._buffer, self._names), output)

    def _buffer(self, name: str | None) -> Tensor | None:
        if name is None:
            return None
        buffers = self._buffers  # sooner found there than by nn.Module
        return buffers[name] if name in buffers else getattr(self, name)

    def _copy_for(self, name: str, value: Tensor | None) -> Tensor | None:
        """What goes into a buffer's place, in the buffer's type where that loses nothing that was asked for."""
        if value is None:
            return None
        mine = getattr(self, name, None)
        if mine is None:
            raise UserError(f"Linear: argument {name}: expected none, as the configuration says, got one")
        if value.shape != mine.shape:
            raise UserError(f"Linear: argument {name}: expected shape {tuple(mine.shape)}, got {tuple(value.shape)}")
        keep = name in ("scales", "zeros") and mine.dtype.is_floating_point and value.dtype.is_floating_point
        return value.detach().clone() if keep else value.detach().to(mine.dtype, copy=True)

    def load_and_transform_weight(
        self, weight: Tensor, scales: Tensor | None = None, zeros: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        """Packs the codes (out_features, in_features) and takes the numbers beside them, copied. UserError as those of
        Matmul.transform_weight and for other shapes; then the layer is as it was."""
        row = FORMATS.get(self.config.W_dtype)
        if scales is not None and scales.dtype == torch.uint8 and row is not None and row.scale:
            scales = scales.view(row.scale)
        made = {
            name: self._copy_for(name, value) for name, value in (("scales", scales), ("zeros", zeros), ("bias", bias))
        }
        made["weight" if self.consistent else "qweight"] = self.bitblas_matmul.transform_weight(weight)
        for name, value in made.items():
            if value is not None:
                setattr(self, name, value)

    def load_packed(self, tensor: PackedTensor) -> None:
        """Takes a matrix of a PackedFile, whatever its packing: what bitloom.write_packed or `bitloom pack` wrote.
        UserError: it is not of the layer's W_dtype, shape or groups."""
        config, kind = self.config, "uint" if tensor.asymmetric else "int"
        width = min(tensor.group, tensor.shape[1])
        wanted = (config.W_dtype, (config.N, config.K), config.group, config.with_zeros, config.with_scaling)
        given = (f"{kind}{tensor.bits}", tuple(tensor.shape), width, tensor.asymmetric, True)
        fields = ("W_dtype", "shape", "group_size", "with_zeros", "with_scaling")
        for field, mine, its in zip(fields, wanted, given):
            if mine != its:
                raise UserError(f"Linear: tensor {tensor.name}: {field}: expected {mine}, got {its}")
        if tensor.asymmetric and config.zeros_mode != "original":
            raise UserError(f"Linear: zeros_mode: expected original to load a packed file, got {config.zeros_mode}")

        def floats(view):
            array = np.array(view)  # of bfloat16 the bits
            return torch.from_numpy(array).view(torch.bfloat16) if array.dtype == np.uint16 else torch.from_numpy(array)

        codes = bitloom.unpack(np.array(tensor.weight), tensor.packing, signed=not tensor.asymmetric)
        zeros = floats(tensor.zeros) if tensor.asymmetric else None
        self.load_and_transform_weight(torch.from_numpy(codes[: config.N, : config.K]), floats(tensor.scales), zeros)

    def _load_checkpoint(self, codes, scales, zeros, module):
        config = self.config
        if not (config.with_scaling and config.with_zeros and config.W_dtype.startswith("uint")):
            raise UserError(
                "Linear: expected a W_dtype of uint1 to uint8, with_scaling and with_zeros for a checkpoint's layer, "
                f"got {config.W_dtype}, {config.with_scaling}, {config.with_zeros}"
            )
        scales = scales.t().contiguous()
        zeros = zeros.t().contiguous()
        if config.zeros_mode == "quantized":
            zeros = pack_zeros(zeros, self.bitblas_matmul.bit)
        else:
            zeros = zeros.to(scales.dtype)
            zeros = zeros * scales if config.zeros_mode == "rescale" else zeros
        bias = getattr(module, "bias", None) if self.bias is not None else None
        self.load_and_transform_weight(codes.t(), scales, zeros, bias)

    def repack_from_gptq(self, gptq_module: nn.Module, device: str | None = None) -> None:
        """Takes the weight of a layer of AutoGPTQ: qweight i32 (in_features · bits / 32, out_features), qzeros i32
        (groups, out_features · bits / 32) of zero points less one, scales (groups, out_features), perhaps g_idx and
        bias. UserError: other shapes, or columns in another order than their groups (desc_act)."""
        bits, module = self.bitblas_matmul.bit, gptq_module
        codes = unpack_gptq(module.qweight, bits, getattr(module, "g_idx", None), self.config.group)
        self._load_checkpoint(codes, module.scales, unpack_gptq_zeros(module.qzeros, bits), module)
        if device is not None:
            self.to(device)

    def repack_from_awq(self, awq_module: nn.Module, device: str | None = None) -> None:
        """Takes the weight of a layer of AutoAWQ, of 4 bits: qweight i32 (in_features, out_features / 8), qzeros i32
        (groups, out_features / 8), scales (groups, out_features), perhaps bias. UserError: another width or shapes."""
        if self.bitblas_matmul.bit != 4:
            raise UserError(f"Linear: expected a W_dtype of uint4 for AWQ, got {self.config.W_dtype}")
        module = awq_module
        self._load_checkpoint(unpack_awq(module.qweight), module.scales, unpack_awq(module.qzeros), module)
        if device is not None:
            self.to(device)
