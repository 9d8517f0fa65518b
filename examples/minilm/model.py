"""A BERT-style sentence encoder, whose operators are torch's in f32 or bitloom's on packed weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import bitloom
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

GROUP = 32  # weights of a row that share a scale


def quantise(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers of shape (n, k) as i8 and f32 scales of shape (n, k / GROUP): weight is about integers · scales.

    Of several scales for a group, from what its largest weight needs to 3/4 of that, the one with the least squared
    error is taken: at few bits, cutting the largest weight off pays.
    """
    top, bottom = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    groups = weight.reshape(len(weight), -1, GROUP)
    largest = groups.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / top
    best_scale, best_error = largest, torch.full_like(largest, torch.inf)
    for share in torch.linspace(0.75, 1, 11):
        scale = largest * share
        error = ((groups / scale).round().clamp(bottom, top) * scale - groups).square().sum(dim=-1, keepdim=True)
        best_scale = torch.where(error < best_error, scale, best_scale)
        best_error = torch.minimum(error, best_error)
    integers = (groups / best_scale).round().clamp(bottom, top)
    return integers.reshape(weight.shape).to(torch.int8), best_scale.squeeze(-1).contiguous()


@dataclass
class FloatLinear:
    weight: torch.Tensor  # (n, k)
    bias: torch.Tensor

    def __call__(self, x):
        return F.linear(x, self.weight, self.bias)

    def bytes(self) -> int:
        return self.weight.nbytes


class PackedLinear:
    """A linear layer by low_bit_gemv: planar fields of `bits` bits, a scale for each GROUP of a row's weights."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, bits: int):
        integers, self.scales = quantise(weight, bits)
        self.packed = bitloom.pack(integers, bitloom.Packing(bits, "planar", GROUP))
        self.bias, self.bits = bias, bits

    def __call__(self, x):
        return bitloom.low_bit_gemv(x, self.packed, self.scales, bits=self.bits, group=GROUP) + self.bias

    def bytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes


class TorchOperators:
    @staticmethod
    def layer_norm(x, weight, bias, eps):
        return F.layer_norm(x, weight.shape, weight, bias, eps)

    @staticmethod
    def softmax(x):
        return torch.softmax(x, dim=-1)

    @staticmethod
    def gelu(x):
        return F.gelu(x)


class BitloomOperators:
    @staticmethod
    def layer_norm(x, weight, bias, eps):
        return bitloom.layer_norm(x, weight, bias, eps)

    @staticmethod
    def softmax(x):
        return bitloom.softmax(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    @staticmethod
    def gelu(x):
        return bitloom.gelu(x.reshape(-1)).reshape(x.shape)


class Weights:
    """The tensors of the model, f32, and the numbers of its config.json."""

    def __init__(self, folder: Path):
        self.tensors = load_file(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())

    def linear_names(self) -> list[str]:
        """The linear layers of the encoder, whose weights are all but the embeddings."""
        suffix = ".weight"
        return [
            name.removesuffix(suffix)
            for name, tensor in self.tensors.items()
            if name.startswith("encoder.") and name.endswith(suffix) and tensor.dim() == 2
        ]

    def linear(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]


class Encoder:
    """Embeds one sentence at a time. `linears` maps each of linear_names() to a function of (tokens, k)."""

    def __init__(self, weights: Weights, linears: dict, operators):
        self.tensors, self.config = weights.tensors, weights.config
        self.linears, self.operators = linears, operators

    def bytes(self) -> int:
        """Of the linear layers' weights."""
        return sum(linear.bytes() for linear in self.linears.values())

    def norm(self, x, name):
        weight, bias = self.tensors[f"{name}.LayerNorm.weight"], self.tensors[f"{name}.LayerNorm.bias"]
        return self.operators.layer_norm(x, weight, bias, self.config["layer_norm_eps"])

    def attention(self, x, layer):
        heads = self.config["num_attention_heads"]
        query, key, value = (
            self.linears[f"{layer}.attention.self.{part}"](x).reshape(len(x), heads, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        mixed = (self.operators.softmax(scores) @ value).transpose(0, 1).reshape(x.shape)
        return self.norm(self.linears[f"{layer}.attention.output.dense"](mixed) + x, f"{layer}.attention.output")

    def __call__(self, tokens: list[int]) -> torch.Tensor:
        """The sentence's embedding, of length 1: the mean over its tokens."""
        word, position, kind = (
            self.tensors[f"embeddings.{table}_embeddings.weight"] for table in ("word", "position", "token_type")
        )
        x = self.norm(word[tokens] + position[: len(tokens)] + kind[0], "embeddings")
        for index in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{index}"
            x = self.attention(x, layer)
            inner = self.operators.gelu(self.linears[f"{layer}.intermediate.dense"](x))
            x = self.norm(self.linears[f"{layer}.output.dense"](inner) + x, f"{layer}.output")
        return F.normalize(x.mean(dim=0), dim=0)
