"""Sums of products whose end result is in 16 bits: matmul_sum in several steps, in place."""

import bitloom
import pytest
import torch

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def run(steps, m, n, k, device, transposed, by_product):
    """The sum's two parts after all but the last product, what they stand for, the end result, and the exact one."""
    generator = torch.Generator().manual_seed(m + n + k)
    out, rest = (torch.full((m, n), float("nan"), dtype=torch.bfloat16, device=device) for _ in range(2))
    exact = torch.zeros(m, n, dtype=torch.float64)
    for step in range(steps):
        a = torch.randn((k, m) if transposed else (m, k), generator=generator).bfloat16()
        b = torch.randn(k, n, generator=generator).bfloat16()
        a = a.t() if transposed else a
        before = exact
        exact = exact + a.double() @ b.double()
        if step + 1 == steps:
            pair = out.double().cpu() + rest.double().cpu()
        more = {"rest": rest} if step + 1 < steps else {}
        more |= {"addend": out, "addend_rest": rest} if step else {}
        if step and by_product:
            identity = torch.eye(128, dtype=torch.bfloat16, device=device)
            more["identity"] = identity.t() if transposed else identity
        bitloom.matmul_sum(a.to(device), b.to(device), out=out, **more)
    return pair, before, out.double().cpu(), exact


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("by_product", [False, True])
@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (17, 33, 65), (199, 264, 72), (300, 640, 40)])
def test_sums_in_pairs(m, n, k, by_product, transposed, device):
    pair, before, out, exact = run(6, m, n, k, device, transposed, by_product)
    largest = 5 * (6 * k) ** 0.5  # of the sums, as good as surely
    assert (pair - before).abs().max() < 5 * largest * 2**-17  # each step rounds to 16 bits
    assert ((out - exact).abs() <= exact.abs() * 2**-8 + 6 * largest * 2**-17).all()  # and the last to 8


@pytest.mark.parametrize("device", DEVICES)
def test_many_small_addends_are_not_lost(device):
    """Of bf16 alone the sum would stay where it is: 1 + 2^-9 rounds to 1."""
    ones = torch.ones(128, 128, dtype=torch.bfloat16, device=device)
    out, rest = ones.clone(), torch.zeros_like(ones)
    a = torch.zeros(128, 64, dtype=torch.bfloat16, device=device)
    b = torch.zeros(64, 128, dtype=torch.bfloat16, device=device)
    a[:, 0], b[0] = 1, 2**-10
    for _ in range(256):
        bitloom.matmul_sum(a, b, out, rest, out=out, rest=rest)
    assert torch.equal(out, torch.full_like(out, 1.25))
    assert not rest.any()
