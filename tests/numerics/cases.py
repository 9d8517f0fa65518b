"""The registry's kernels as numerical cases: every variant over every test size, with random arguments."""

import functools
import importlib.util
import inspect
import zlib
from dataclasses import dataclass
from pathlib import Path

import bitloom
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
TORCH = {
    "b1": torch.bool,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
}


@functools.cache
def reference_of(kernel: str):
    """The module reference.py beside the kernel's source.

    It defines, for kernel k, ``k`` on float64 and int64 numpy arrays, ``k_torch`` on tensors of the kernel's types, and
    where the outputs are not the results themselves ``k_results``. Each takes the views, scalars and Meta parameters by
    name, ``k_torch`` also the variant's name as ``dtype``, and gives one result or a tuple. Where random inputs will
    not do, ``k_inputs`` changes the tensors of a dict, given numpy's generator too and, where it takes more, the
    scalars and Meta parameters. ``k_reads`` names the outputs that
    the kernel reads too.
    """
    source = Path(bitloom.kernels()[kernel].source)
    path = ROOT / "kernels" / source.parent.name / "reference.py"
    spec = importlib.util.spec_from_file_location(f"reference_{source.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Case:
    kernel: str
    dtype: str  # the variant's name
    sizes: str  # as in the registry: "rows=3 cols=17"; decimal numbers for scalars

    @property
    def row(self):
        return bitloom.kernels()[self.kernel]

    @property
    def parameters(self):
        return self.row.variants[self.row.variant_names.index(self.dtype)]

    @property
    def values(self) -> dict[str, int | float]:
        pairs = (item.split("=") for item in self.sizes.split())
        return {name: float(value) if "." in value else int(value) for name, value in pairs}

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        sizes = {name: value for name, value in self.values.items() if isinstance(value, int)}
        return self.row.shapes(self.dtype, **sizes)

    def numbers(self) -> dict[str, object]:
        """Scalars and Meta parameters that a reference may want: as in the sizes, else their defaults."""
        numbers = {p.name: p.default for p in self.parameters if p.kind != "view" and not isinstance(p.default, str)}
        return numbers | {p.name: self.values[p.name] for p in self.parameters if p.name in self.values}

    def metas(self) -> dict[str, int | float]:
        """Those to pass: what says how a view lies in memory is for the call to find out."""
        return {
            p.name: self.values[p.name]
            for p in self.parameters
            if p.name in self.values and not str(p.default).endswith(".transposed")
        }

    def transposed(self, view: str) -> bool:
        """Whether the view is to lie in memory with its last two dimensions swapped."""
        flags = [p.name for p in self.parameters if p.default == f"{view}.transposed"]
        return any(self.values.get(flag) for flag in flags)

    def inputs(self) -> dict[str, torch.Tensor]:
        """The same for the same case: integers over their whole range, floats normal, rounded to the view's type."""
        generator = np.random.default_rng(zlib.crc32(repr(self).encode()))
        inputs = {}
        for parameter in self.parameters:
            if parameter.kind != "view" or parameter.name not in self.shapes():
                continue
            if parameter.output and parameter.name not in self.reads():
                continue
            name, shape = self.shapes()[parameter.name]
            dtype = TORCH[name]
            if dtype.is_floating_point:
                values = torch.from_numpy(generator.standard_normal(shape)).to(dtype)
            elif dtype == torch.bool:
                values = torch.from_numpy(generator.integers(0, 2, shape)).to(dtype)
            else:
                limits = torch.iinfo(dtype)
                values = torch.from_numpy(generator.integers(limits.min, limits.max, shape, endpoint=True)).to(dtype)
            inputs[parameter.name] = values
        if amend := getattr(reference_of(self.kernel), f"{self.kernel}_inputs", None):
            wanted = inspect.signature(amend).parameters
            amend(generator, inputs, **(self.numbers() if len(wanted) > 2 else {}))
        return inputs

    def reads(self) -> tuple[str, ...]:
        """The outputs that are inputs too."""
        return getattr(reference_of(self.kernel), f"{self.kernel}_reads", ())

    def outputs(self) -> list[str]:
        return [parameter.name for parameter in self.parameters if parameter.kind == "view" and parameter.output]


def all_cases() -> list[Case]:
    return [
        Case(name, variant, sizes)
        for name, row in bitloom.kernels().items()
        for variant in row.variant_names
        for sizes in row.tests
    ]


def as_tuple(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def exact(tensor: torch.Tensor) -> np.ndarray:
    """The values in float64 or int64."""
    return tensor.cpu().to(torch.float64 if tensor.is_floating_point() else torch.int64).numpy()


def results(case: Case, outputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, ...]:
    values = {name: exact(tensor) for name, tensor in outputs.items()}
    convert = getattr(reference_of(case.kernel), f"{case.kernel}_results", None)
    return as_tuple(convert(**values)) if convert else tuple(values.values())


def expected(case: Case, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, ...]:
    function = getattr(reference_of(case.kernel), case.kernel)
    return as_tuple(function(**{name: exact(tensor) for name, tensor in inputs.items()}, **case.numbers()))


def by_torch(case: Case, inputs: dict[str, torch.Tensor], device="cpu") -> tuple[np.ndarray, ...]:
    """torch's results: on the CPU, or on the device of a kernel whose reference.py defines ``k_torch_on_device``."""
    module = reference_of(case.kernel)
    if getattr(module, f"{case.kernel}_torch_on_device", False):
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    function = getattr(module, f"{case.kernel}_torch")
    return tuple(exact(tensor.detach()) for tensor in as_tuple(function(**inputs, **case.numbers(), dtype=case.dtype)))
