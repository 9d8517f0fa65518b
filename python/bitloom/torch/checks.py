"""What arguments of several operators must be. Each raises UserError that names the operator and the argument."""

import torch
from torch import Tensor

import bitloom

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_choice(name: str, argument: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise bitloom.UserError(f"{name}: argument {argument}: expected {', '.join(map(str, choices))}, got {value!r}")


def check_range(name: str, argument: str, value: float, least: float, most: float = float("inf")) -> None:
    if not least <= value <= most:
        upto = f" to {most:g}" if most < float("inf") else " or more"
        raise bitloom.UserError(f"{name}: argument {argument}: expected {least:g}{upto}, got {value}")


def check_temperature(name: str, value: float) -> None:
    if not value > 0:
        raise bitloom.UserError(f"{name}: argument temperature: expected more than 0, got {value}")


def check_constant(name: str, argument: str, value: Tensor | None) -> None:
    if value is not None and value.requires_grad:
        raise bitloom.UserError(
            f"{name}: argument {argument}: expected a tensor that requires no gradient, got one that does"
        )


def check_floats(name: str, argument: str, value: Tensor) -> None:
    """One dimension or more, of a type that kernels compute with."""
    if value.dtype not in FLOATS:
        raise bitloom.UserError(f"{name}: argument {argument}: expected dtype f32, f16, bf16, got {value.dtype}")
    if not value.dim():
        raise bitloom.UserError(f"{name}: argument {argument}: expected 1 dimension or more, got 0")


def check_targets(name: str, target: Tensor, x: Tensor) -> None:
    """Of the rows of x."""
    if target.dtype != torch.int64:
        raise bitloom.UserError(f"{name}: argument target: expected dtype i64, got {target.dtype}")
    check_shapes(name, target=(target, x.shape[:-1]))
    check_devices(name, x.device, target=target)


def check_devices(name: str, device: torch.device, **arguments: Tensor | None) -> None:
    for argument, value in arguments.items():
        if value is not None and value.device != device:
            raise bitloom.UserError(
                f"{name}: argument {argument}: expected a tensor on {device}, got one on {value.device}"
            )


def check_shapes(name: str, **arguments: tuple[Tensor | None, tuple]) -> None:
    """Of each argument its value, None where it is left out, and the shape that it must have."""
    for argument, (value, shape) in arguments.items():
        if value is not None and value.shape != tuple(shape):
            raise bitloom.UserError(
                f"{name}: argument {argument}: expected shape {tuple(shape)}, got {tuple(value.shape)}"
            )
