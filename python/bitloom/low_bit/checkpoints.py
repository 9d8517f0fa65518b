"""The integers in layers that GPTQ and AWQ quantised."""

import math

import torch
from torch import Tensor

from bitloom import UserError

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # column of a word's eight that its fields, from the low end, hold


def _check_words(name: str, words: Tensor) -> None:
    if words.dtype != torch.int32 or words.dim() != 2:
        raise UserError(f"{name}: expected a matrix of int32, got {words.dtype} of {tuple(words.shape)}")


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """The fields of a stream of bits along the first dimension, low ones first: i32 (n · bits / 32, columns) to u8
    (n, columns)."""
    values, period = 32 // math.gcd(32, bits), bits // math.gcd(32, bits)
    if len(words) % period:
        raise UserError(f"expected a multiple of {period} words of {bits} bits each, got {len(words)}")
    fields = torch.empty(len(words) // period * values, words.shape[1], dtype=torch.uint8, device=words.device)
    mask = (1 << bits) - 1
    for i in range(values):
        word, shift = divmod(i * bits, 32)
        field = words[word::period] >> shift
        if shift + bits > 32:  # the rest is in the next word
            field = (field & ((1 << (32 - shift)) - 1)) | (words[word + 1 :: period] << (32 - shift))
        fields[i::values] = (field & mask).to(torch.uint8)
    return fields


def unpack_gptq(qweight: Tensor, bits: int, g_idx: Tensor | None = None, group: int = 0) -> Tensor:
    """The codes (in_features, out_features) of a layer of GPTQ's. g_idx: the group of each row, which must be
    row // group."""
    _check_words("qweight", qweight)
    codes = unpack_words(qweight, bits)
    if g_idx is not None and g_idx.numel():
        ordered = torch.arange(len(g_idx), device=g_idx.device) // group
        if not torch.equal(g_idx.to(ordered.dtype), ordered):
            raise UserError(
                f"g_idx: expected groups of {group} columns in their order, got another order (desc_act) or size"
            )
    return codes


def unpack_gptq_zeros(qzeros: Tensor, bits: int) -> Tensor:
    """The zero points (groups, out_features), which the file stores less one."""
    _check_words("qzeros", qzeros)
    return (unpack_words(qzeros.t(), bits).t() + 1) & ((1 << bits) - 1)


def unpack_awq(words: Tensor) -> Tensor:
    """The codes or zero points (rows, 8 · words) of AWQ's, i32 (rows, words) of 4 bits."""
    _check_words("qweight", words)
    fields = torch.empty(len(words), words.shape[1] * 8, dtype=torch.uint8, device=words.device)
    for i, column in enumerate(AWQ_ORDER):
        fields[:, column::8] = ((words >> (4 * i)) & 15).to(torch.uint8)
    return fields
