"""Training on this project's documentation: the same with the patches of transformers' models and without."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from bitloom.transformers import apply_bitloom

STEPS, BATCH, LENGTH, VOCABULARY = 32, 4, 33, 1009
MODELS = {
    "llama": (transformers.LlamaConfig, {"rope_theta": 5000.0}),
    "qwen3": (transformers.Qwen3Config, {"tie_word_embeddings": True}),
    "gemma2": (transformers.Gemma2Config, {"sliding_window": 16, "query_pre_attn_scalar": 16}),
}


@pytest.fixture(autouse=True)
def one_thread():
    """So small a model's work is shorter than its sharing out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokens():
    """The documentation's words and signs, the most frequent as numbers from 1 on, the others as 0."""
    folder = Path(__file__).parents[2] / "docs"
    text = "".join(file.read_text() for file in sorted(folder.glob("*.md")))
    pieces = re.findall(r"\w+|[^\w\s]|\s+", text)
    number = {piece: i for i, (piece, _) in enumerate(Counter(pieces).most_common(VOCABULARY - 1), 1)}
    return torch.tensor([number.get(piece, 0) for piece in pieces])


def make(kind, options):
    torch.manual_seed(0)
    config = kind(
        vocab_size=VOCABULARY,
        hidden_size=72,
        intermediate_size=199,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=LENGTH,
        **options,
    )
    return transformers.AutoModelForCausalLM.from_config(config).train()


def train(model, tokens):
    """The losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(STEPS):
        first = torch.randint(len(tokens) - LENGTH, (BATCH, 1), generator=generator)
        ids = tokens[first + torch.arange(LENGTH)]
        labels = ids.where(torch.rand(ids.shape, generator=generator) > 0.1, -100)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses)


@torch.no_grad()
def likeliest(model, ids):
    """The twenty largest log-probabilities at each place."""
    return torch.log_softmax(model(input_ids=ids).logits, -1).topk(20)


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same(name, tokens):
    plain, patched = make(*MODELS[name]), make(*MODELS[name])
    apply_bitloom(patched)
    expected, losses = train(plain, tokens), train(patched, tokens)
    assert expected[-4:].mean() < expected[:4].mean() - 1  # it learns
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)

    ids = tokens[:LENGTH][None]
    theirs, ours = likeliest(plain.eval(), ids), likeliest(patched.eval(), ids)
    torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-4)
    # Adam's steps are as long for small gradients as for large ones, and Gemma's norms begin at 0.
    for mine, other in zip(patched.parameters(), plain.parameters(), strict=True):
        assert (mine - other).norm() <= 1e-3 * other.norm()
