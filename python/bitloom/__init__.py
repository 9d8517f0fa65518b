"""Kernels for tensors of anything with DLPack: torch, numpy, cupy, jax, on the CPU and on CUDA, without copies.

Each registered kernel is a function here: ``bitloom.rms_norm(x, weight, eps=1e-6)``. Inputs go by position or by name,
outputs and Meta parameters by name; outputs that are not passed are made and returned. ``help(bitloom.rms_norm)`` tells
the rest, and ``bitloom.kernels()`` lists them.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import _kernels
from ._bitloom import (
    CudaError,
    InternalError,
    Kernel,
    PackedFile,
    PackedTensor,
    Packing,
    Parameter,
    UserError,
    _explain_call,
    _explain_sizes,
    _inspect,
    _load_kernels,
    _set_target,
    _tune_call,
    _tune_sizes,
    cuda_unavailable,
    kernels,
    num_threads,
    pack,
    set_num_threads,
    targets,
    unpack,
    write_packed,
)
from ._kernels import *  # noqa: F403

__all__ = [
    "CudaError",
    "InternalError",
    "Kernel",
    "PackedFile",
    "PackedTensor",
    "Packing",
    "Parameter",
    "UserError",
    "cuda_unavailable",
    "explain",
    "inspect",
    "kernels",
    "load_kernels",
    "num_threads",
    "pack",
    "set_num_threads",
    "targets",
    "tune",
    "unpack",
    "use_target",
    "write_packed",
    *_kernels.__all__,
]

# Of bitloom.low_bit, which imports torch: when it is asked for.
if TYPE_CHECKING:
    from .low_bit import *  # noqa: F403
_LOW_BIT = (
    *("ErrorReport", "GroupedMatmul", "Linear", "Matmul", "MatmulConfig", "Quantized"),
    *("auto_detect_nvidia_target", "quantize"),
)


def __getattr__(name: str) -> Any:
    if name in _LOW_BIT:
        return getattr(importlib.import_module(".low_bit", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _with_usual(kernel: str, sizes: dict[str, int]) -> dict[str, int]:
    """The sizes, those of the kernel's first benchmark where not given."""
    row = kernels().get(kernel)
    usual = row.benchmarks[0].split() if row and row.benchmarks else []
    return {name: int(value) for name, value in (item.split("=") for item in usual)} | sizes


def explain(
    kernel: str | Callable[..., Any],
    *arguments: Any,
    target: str | None = None,
    dtype: str | None = None,
    **named: Any,
) -> str:
    """Which code a call runs and why: target features, configuration, what was chosen, the instructions it came to.

    kernel: a kernel's name or its function. Beside arrays, for what the same call of the function would run; without
    them, for a target and sizes as inspect takes them. Or a Matmul, beside what its call takes. Nothing is computed.
    """
    if hasattr(kernel, "explain"):
        return kernel.explain(*arguments, target=target, **named)
    name = kernel if isinstance(kernel, str) else kernel.__name__
    if not arguments and not any(hasattr(value, "__dlpack__") for value in named.values()):
        return _explain_sizes(name, target or "host", dtype, _with_usual(name, named))
    if dtype is not None:
        raise UserError("explain: expected the arrays to say the element types, got dtype too")
    if target is None:
        return _explain_call(name, arguments, named)
    with use_target(target):
        return _explain_call(name, arguments, named)


def inspect(kernel: str, *, target: str = "host", emit: str = "tile", dtype: str | None = None, **sizes: int) -> str:
    """The text of a kernel after a stage of its lowering, without running it.

    emit: tile, layout, llvm or asm (on a GPU, PTX). target: a name of ``targets()``, with features where wanted.
    dtype: of the first parameter, or a variant's name, where the kernel has several. sizes: values for the extents'
    names and the Meta parameters, ``inspect("rms_norm", emit="asm", target="sm_90a", cols=8192)``; those of the
    kernel's first benchmark where not given.
    Raises UserError for names that are unknown.
    """
    return _inspect(kernel, target, emit, dtype, _with_usual(kernel, sizes))


def tune(
    kernel: str | Callable[..., Any],
    *arguments: Any,
    target: str | None = None,
    dtype: str | None = None,
    runs: int = 5,
    file: str | None = None,
    **named: Any,
) -> Any:
    """Searches the fastest configuration for such calls, and keeps it for later ones, in this process and in others.

    kernel, arguments, target, dtype: as explain takes them; the arrays are only looked at. runs: rounds that each
    configuration is timed in. file: the table to add to, by default tuned.json where compiled code is cached;
    $BITLOOM_TUNED names one more to read. Calls of the same sizes and dtypes on the same target take what was found
    unless they give one of its parameters. Returns what was found and how fast it is: a dict, of a Matmul a list with
    one for each of its kernels that has something to tune.
    Raises UserError for a kernel without parameters to tune, and for arguments that give one.
    """
    if hasattr(kernel, "tune"):
        return kernel.tune(*arguments, runs=runs, file=file, **named)
    name = kernel if isinstance(kernel, str) else kernel.__name__
    if name in kernels() and (given := [meta for meta in kernels()[name].tunables if meta in named]):
        raise UserError(f"{name}: argument {given[0]}: expected none, since it is tuned, got {named[given[0]]}")
    if not arguments and not any(hasattr(value, "__dlpack__") for value in named.values()):
        return _tune_sizes(name, target or "host", dtype, _with_usual(name, named), runs, file)
    if dtype is not None or target is not None:
        raise UserError("tune: expected the arrays to say the element types and the target, got dtype or target too")
    return _tune_call(name, arguments, named, runs, file)


def load_kernels(path: str) -> list[str]:
    """Loads a shared library of kernels, makes functions of this module of them, and returns their names.

    Raises UserError when the library cannot be loaded.
    """
    names = _load_kernels(str(path))
    for name in names:
        globals()[name] = _kernels.add(name)
    return names


@contextmanager
def use_target(name: str) -> Iterator[None]:
    """Within it, this thread's calls run elsewhere than their tensors' device would say.

    name: "interpreter", the reference for every target, or a target that this machine runs, such as "x86-64-v2".
    """
    before = _set_target(name)
    try:
        yield
    finally:
        _set_target(before)
