"""Packing from Python: every code point of every width, in every order."""

import bitloom
import numpy as np
import pytest
import torch

PACKINGS = [
    (bits, order, block) for bits in range(1, 9) for order in ("low", "high", "planar") for block in (8, 32, 256)
]


@pytest.mark.parametrize(("bits", "order", "block"), PACKINGS)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_every_code_comes_back(bits, order, block, signed):
    packing = bitloom.Packing(bits, order, block)
    codes = np.arange(2**bits) - (2 ** (bits - 1) if signed else 0)
    values = np.resize(codes, (3, 256)).astype(np.int8 if signed else np.uint8)
    packed = bitloom.pack(values, packing)
    assert packed.dtype == np.uint8 and packed.shape == (3, 256 * bits // 8) == (3, packing.bytes_per_row(256))
    np.testing.assert_array_equal(bitloom.unpack(packed, packing, signed=signed), values)


def test_the_common_layouts_by_hand():
    values = np.arange(8, dtype=np.uint8)
    low = bitloom.pack(values, bitloom.Packing(4, "low", 8))
    high = bitloom.pack(values, bitloom.Packing(4, "high", 8))
    planar = bitloom.pack(values, bitloom.Packing(4, "planar", 8))
    assert low.tolist() == [0x10, 0x32, 0x54, 0x76]
    assert high.tolist() == [0x01, 0x23, 0x45, 0x67]
    assert planar.tolist() == [0x40, 0x51, 0x62, 0x73]


def test_leading_dimensions_and_libraries():
    packing = bitloom.Packing(2, "planar", 32)
    values = torch.randint(0, 4, (2, 3, 64), dtype=torch.uint8)
    packed = bitloom.pack(values, packing)
    assert type(packed) is torch.Tensor and packed.shape == (2, 3, 16)
    assert torch.equal(bitloom.unpack(packed, packing), values)
    assert bitloom.pack(np.empty((0, 64), np.uint8), packing).shape == (0, 16)


def test_packings_are_values():
    packing = bitloom.Packing(3, "planar", 64)
    assert (packing.bits, packing.order, packing.block) == (3, "planar", 64)
    assert packing == bitloom.Packing.parse("block=64,bits=3,order=planar")
    assert hash(packing) == hash(bitloom.Packing(3, "planar", 64)) and packing != bitloom.Packing(3, "low", 64)
    assert str(packing) == "bits=3,order=planar,block=64" and repr(packing) == f"bitloom.Packing({packing})"
    assert "63.2" in packing.drawing()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bitloom.Packing(9), "expected 1 to 8 bits, got 9"),
        (lambda: bitloom.Packing(4, "planer"), "expected order low, high, planar or fragments, got 'planer'"),
        (lambda: bitloom.Packing(4, "low", 12), "12"),
        (lambda: bitloom.pack(np.full(8, 16, np.uint8), bitloom.Packing(4)), "expected a value in"),
        (lambda: bitloom.pack(np.zeros(8, np.float32), bitloom.Packing(4)), "values: expected dtype u8 or i8, got f32"),
        (lambda: bitloom.pack(np.zeros((8, 16), np.uint8)[:, ::2], bitloom.Packing(4)), "expected a contiguous tensor"),
        (lambda: bitloom.pack(np.zeros(12, np.uint8), bitloom.Packing(4)), "12"),
        (
            lambda: bitloom.unpack(np.zeros(5, np.uint8), bitloom.Packing(4)),
            "expected a multiple of 4 bytes in a row, got 5",
        ),
        (lambda: bitloom.unpack(np.zeros(4, np.int8), bitloom.Packing(4)), "bytes: expected dtype u8, got i8"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(bitloom.UserError) as caught:
        call()
    assert message in str(caught.value)
