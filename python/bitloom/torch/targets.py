"""Targets that are no class, ids that are no row: found by the kernels and reported without a wait for the device."""

import torch
from torch import Tensor

import bitloom

_TARGETS = "target: expected classes of the logits or ignore_index"
_words: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}  # (on the device, its copy on the host)


def _complain(name: str, row: int, when: str) -> None:
    expected = "ids: expected rows of the weight" if name == "embedding" else _TARGETS
    raise bitloom.UserError(f"{name}: argument {expected}, got another in row {row - 1}{when}")


def error_word(name: str, device: torch.device) -> Tensor:
    """An i32 of value 0, where a kernel writes 1 + the row of a bad target. On CUDA, raises UserError where an earlier
    call of the operator has found one since."""
    if device.type == "cpu":
        return torch.zeros(1, dtype=torch.int32)
    key = name, device
    if key not in _words:
        there = torch.zeros(1, dtype=torch.int32, device=device)
        _words[key] = there, torch.zeros(1, dtype=torch.int32, device="cpu", pin_memory=True)
    there, seen = _words[key]
    if row := seen.item():
        seen.zero_()
        there.zero_()
        _complain(name, row, " of an earlier call")
    return there


def look_at(name: str, word: Tensor) -> None:
    """After the kernels. Raises UserError where targets are on the CPU; on CUDA, lets a later call do so."""
    if word.device.type == "cpu":
        if row := word.item():
            _complain(name, row, "")
    else:
        _words[name, word.device][1].copy_(word, non_blocking=True)
