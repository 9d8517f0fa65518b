"""Every kernel against float64: all element types, all test sizes of the registry, in memory of several forms.

The error may be twice that of torch's own operation in the same type, and 1e-4; integers are exact.
"""

import math
import mmap

import bitloom
import numpy as np
import pytest
import torch
from cases import TORCH, Case, all_cases, by_torch, exact, expected, results

CASES = all_cases()
GUARD = 3  # elements between the rows of strided memory
COPIED = 16  # bytes: where rows begin at multiples of it, GPUs copy whole tiles
INTERPRETED = 5000  # elements: the interpreter takes about a second for ten times as many
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


FAR = 2**31 + 64  # elements from a row to the next of memory that no 32-bit offset spans


def far_apart(shape, dtype):
    """A tensor whose rows lie FAR apart, in memory of which only the pages that are touched are there."""
    strides = [FAR * math.prod(shape[d + 1 : -1]) for d in range(len(shape) - 1)] + [1]
    count = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)


def poisoned(shape, dtype, device, form="dense"):
    """A tensor and the memory that it lies in: NaN, or for integers 0x55 in each byte, in and between the rows."""
    if form == "far" and len(shape) > 1 and math.prod(shape):
        place = far_apart(shape, dtype)
        return place, place
    unit = COPIED // dtype.itemsize
    columns = {"strided": GUARD, "padded": unit + -shape[-1] % unit}.get(form, 0) + shape[-1]
    memory = torch.empty((*shape[:-1], columns), dtype=dtype, device=device)
    memory.view(torch.uint8).fill_(0x55) if not dtype.is_floating_point else memory.fill_(float("nan"))
    return memory[..., : shape[-1]], memory


def untouched(memory, columns):
    """Whether what lies between the rows is as it was."""
    between = memory[..., columns:]
    if memory.is_floating_point():
        return bool(between.isnan().all())
    return bool((between.contiguous().view(torch.uint8) == 0x55).all())


def run(case: Case, inputs, device, form="dense"):
    """The outputs, each of whose elements the kernel wrote, and nothing beside them."""
    given = {}
    for name, tensor in inputs.items():
        if name in case.outputs():
            continue
        if case.transposed(name):
            tensor = tensor.mT
        place, _ = poisoned(tensor.shape, tensor.dtype, device, form)
        place.copy_(tensor)
        given[name] = place.mT if case.transposed(name) else place
    places = {}
    for name in case.outputs():
        dtype, shape = case.shapes()[name]
        places[name] = poisoned(shape, TORCH[dtype], device, form)
        if name in inputs:
            places[name][0].copy_(inputs[name])
    outputs = {name: place for name, (place, _) in places.items()}
    getattr(bitloom, case.kernel)(**given, **outputs, **case.metas())
    for name, (place, memory) in places.items():
        assert untouched(memory, place.shape[-1]), f"{name}: expected writes inside the view only"
    return outputs


def difference(one, other):
    """How far two arrays lie apart; equal infinities do not."""
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0, np.abs(one - other))


def check(case: Case, outputs, inputs, device="cpu"):
    wanted = expected(case, inputs)
    got = results(case, outputs)
    theirs = by_torch(case, inputs, device)
    assert len(got) == len(wanted) == len(theirs)
    integers = not any(tensor.is_floating_point() for tensor in outputs.values())
    for ours, peer, true in zip(got, theirs, wanted, strict=True):
        assert ours.shape == true.shape
        if integers:
            dtype = next(iter(outputs.values())).dtype
            np.testing.assert_array_equal(ours, exact(torch.from_numpy(true).to(dtype)))
            continue
        assert not np.isnan(ours).any(), "expected every element to be written"
        error, theirs = (difference(one, true).max(initial=0) for one in (ours, peer))
        bound = 2 * theirs + 1e-4
        assert error <= bound, f"expected an error of at most {bound:.3g}, got {error:.3g}"


@pytest.mark.parametrize("form", ["dense", "strided", "padded"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}-{case.dtype}-{case.sizes.replace(' ', '-')}")
def test_error(case, device, form):
    if device == "cpu" and form == "padded":
        pytest.skip("strided, to a CPU")
    if device == "cuda" and case.row.only_cpus:
        pytest.skip("for CPUs")
    inputs = case.inputs()
    check(case, run(case, inputs, device, form), inputs, device)


@pytest.mark.parametrize("target", ["x86-64", "interpreter"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}-{case.dtype}-{case.sizes.replace(' ', '-')}")
def test_error_on_target(case, target):
    inputs = case.inputs()
    if target == "interpreter" and sum(tensor.numel() for tensor in inputs.values()) > INTERPRETED:
        pytest.skip("too large for the interpreter")
    with bitloom.use_target(target):
        check(case, run(case, inputs, "cpu"), inputs)


@pytest.mark.parametrize("kernel", bitloom.kernels())
def test_rows_far_apart(kernel):
    """Offsets of more than 2^31 elements, of every view with rows."""
    case = max((case for case in CASES if case.kernel == kernel), key=lambda case: len(case.sizes))
    inputs = case.inputs()
    check(case, run(case, inputs, "cpu", "far"), inputs)


def test_more_than_2_31_elements():
    x = far_apart((2, 5), torch.bool).as_strided((FAR + 5,), (1,))
    x[5] = x[FAR - 1] = x[FAR + 4] = True
    assert bitloom.sum_scaled(x).item() == 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", bitloom.kernels())
def test_same_bits_each_time(kernel, device):
    if device == "cuda" and bitloom.kernels()[kernel].only_cpus:
        pytest.skip("for CPUs")
    case = max((case for case in CASES if case.kernel == kernel), key=lambda case: len(case.sizes))
    inputs = case.inputs()
    first, second = run(case, inputs, device), run(case, inputs, device)
    for name in first:
        assert torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8))


def test_every_kernel_has_cases():
    assert {case.kernel for case in CASES} == set(bitloom.kernels())
