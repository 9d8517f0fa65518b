"""The patches of transformers' models: what they change, that undo() puts it back, and what they refuse."""

import importlib
import subprocess
import sys

import bitloom
import pytest
import torch
import transformers
from bitloom import transformers as patches
from bitloom.transformers.models import MODELS

SMALL = {
    "vocab_size": 199,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
PARTICULAR = {
    "mixtral": {"num_local_experts": 4, "output_router_logits": True},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.5},
    "gemma2": {"final_logit_softcapping": 5.0},
    "gemma3": {"final_logit_softcapping": 5.0},
}
CLASSES = {"gemma3": "Gemma3"}


def make(name, **options):
    """A model of random weights, the same each time."""
    prefix = CLASSES.get(name, MODELS[name].prefix)
    config = "Gemma3TextConfig" if name == "gemma3" else f"{prefix}Config"
    torch.manual_seed(0)
    config = getattr(transformers, config)(**SMALL | PARTICULAR.get(name, {}) | options)
    return getattr(transformers, f"{prefix}ForCausalLM")(config).train()


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, SMALL["vocab_size"], (2, 17), generator=generator)
    labels = ids.clone()
    labels[0, :5] = -100
    return {"input_ids": ids, "labels": labels}


def step(model, **more):
    """The loss and every gradient."""
    model.zero_grad()
    loss = model(**batch(), **more).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def apply(name):
    return getattr(patches, f"apply_bitloom_to_{name}")


def functions(name):
    """Every function of the model's module and of its classes, and those that the forms name elsewhere."""
    module = importlib.import_module(MODELS[name].module)
    found = {key: value for key, value in vars(module).items() if callable(value)}
    for key, value in list(found.items()):
        if isinstance(value, type) and value.__module__ == module.__name__:
            found |= {f"{key}.{inner}": item for inner, item in vars(value).items() if callable(item)}
    return found


names = pytest.mark.parametrize("name", MODELS)


@names
def test_a_step_is_the_same(name):
    """The whole class and one instance: loss and gradients, with fewer logits and without a change afterwards."""
    before = functions(name)
    model = make(name)
    loss, gradients = step(model)
    with apply(name)() as patch:
        assert len(patch._changes) >= 4
        output = model(**batch())
        assert output.logits is None
        results = [step(model)]
    assert functions(name) == before
    with apply(name)(model=model):
        results.append(step(model))
        assert functions(name) == before
    assert step(model)[0] == loss and model(**batch()).logits is not None
    for mine, own in results:
        torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-5)
        assert own.keys() == gradients.keys()
        for key, value in own.items():
            torch.testing.assert_close(
                value, gradients[key], rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


@names
def test_logits_without_labels(name):
    model = make(name).eval()
    inputs = {"input_ids": batch()["input_ids"]}
    with torch.no_grad():
        expected = model(**inputs).logits
        with apply(name)():
            torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
            result = model(**batch())
    assert result.logits is not None and result.loss is not None


@pytest.mark.parametrize("option", ["rope", "swiglu", "rms_norm", "fused_linear_cross_entropy"])
def test_one_option_alone(option):
    """Changes its own functions only."""
    every = {name: name == option for name in MODELS["llama"].options}
    before = functions("llama")
    with patches.apply_bitloom_to_llama(**every):
        changed = {key for key, value in functions("llama").items() if before[key] is not value}
    expected = {
        "rope": {"apply_rotary_pos_emb"},
        "swiglu": {"LlamaMLP.forward"},
        "rms_norm": {"LlamaRMSNorm.forward"},
        "fused_linear_cross_entropy": {"LlamaForCausalLM.forward"},
    }
    assert changed == expected[option]


@pytest.mark.parametrize(("name", "activation"), [("llama", "gelu"), ("llama", "gelu_new"), ("phi3", "gelu")])
def test_other_activations(name, activation):
    model = make(name, hidden_act=activation)
    loss, gradients = step(model)
    patches.apply_bitloom(model)
    mine, own = step(model)
    torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-5)
    for key, value in own.items():
        torch.testing.assert_close(value, gradients[key], rtol=1e-3, atol=1e-5)


def test_patches_over_each_other():
    """The first stays until it is undone itself, whatever the order, and undoing twice is undoing once."""
    before = functions("llama")
    first, second = patches.apply_bitloom_to_llama(rope=False), patches.apply_bitloom_to_llama()
    second.undo()
    assert functions("llama")["LlamaMLP.forward"] is not before["LlamaMLP.forward"]
    first.undo(), first.undo()
    assert functions("llama") == before
    with patches.apply_bitloom_to_llama():
        model = make("llama")
        inner = patches.apply_bitloom(model)
        inner.undo()
        assert model(**batch()).logits is None
    assert functions("llama") == before


def test_patches_of_one_model_over_each_other():
    """In whatever order they are undone: the other stays, and nothing is left behind."""
    model = make("llama")
    for backwards in (False, True):
        patch_of = [patches.apply_bitloom(model, rope=False), patches.apply_bitloom(model)]
        first, second = reversed(patch_of) if backwards else patch_of
        first.undo()
        assert model(**batch()).logits is None
        second.undo()
        assert model(**batch()).logits is not None
        assert not any("forward" in vars(part) for part in model.modules())
    before = functions("llama")
    first, second = patches.apply_bitloom_to_llama(), patches.apply_bitloom_to_llama()
    first.undo()
    assert model(**batch()).logits is None
    second.undo()
    assert functions("llama") == before


def test_loss_arguments():
    model, labels = make("qwen3"), batch()["labels"]
    for more in (
        {"num_items_in_batch": 11},
        {"num_items_in_batch": torch.tensor(11)},
        {"ignore_index": 7},
        {"shift_labels": labels.roll(3, -1)},
    ):
        if "ignore_index" in more:
            more["labels"] = labels.where(labels != -100, 7)
        arguments = batch() | more
        expected = model(**arguments).loss
        with patches.apply_bitloom(model):
            torch.testing.assert_close(model(**arguments).loss, expected, rtol=1e-5, atol=1e-5)


def test_outputs_and_tuples():
    model = make("gemma2")
    asked = {"output_hidden_states": True, "use_cache": True}
    expected = model(**batch(), **asked)
    with patches.apply_bitloom(model):
        result = model(**batch(), **asked)
        loss, *_ = model(**batch(), return_dict=False)
    assert len(result.hidden_states) == len(expected.hidden_states) and result.past_key_values is not None
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)


def test_sixteen_bits():
    """As near to f32's loss and gradients as transformers' own steps in bf16."""
    exact_loss, exact = step(make("llama"))
    model = make("llama").bfloat16()
    their_loss, theirs = step(model)
    with patches.apply_bitloom(model):
        our_loss, ours = step(model)
    assert abs(our_loss.float() - exact_loss) <= 2 * abs(their_loss.float() - exact_loss) + 1e-3
    for key, truth in exact.items():
        assert (ours[key].float() - truth).norm() <= 2 * (theirs[key].float() - truth).norm() + 1e-4


def test_compiled_in_one_graph():
    model = make("llama")
    loss, gradients = step(model)
    with patches.apply_bitloom(model):
        torch.compiler.reset()
        model.forward = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
        mine, own = step(model)
    torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-5)
    for key, value in own.items():
        torch.testing.assert_close(value, gradients[key], rtol=1e-3, atol=1e-5)


def test_automatic_model():
    config = make("mistral").config
    model = patches.AutoBitloomForCausalLM.from_config(config, rms_norm=False).train()
    assert model(**batch()).logits is None and "forward" not in vars(model.model.norm)


def changed_source(monkeypatch):
    module = importlib.import_module(MODELS["llama"].module)
    monkeypatch.setattr(module.LlamaRMSNorm, "forward", lambda self, hidden_states: hidden_states)
    return lambda: patches.apply_bitloom_to_llama()


def missing_class(monkeypatch):
    monkeypatch.delattr(importlib.import_module(MODELS["llama"].module), "LlamaMLP")
    return lambda: patches.apply_bitloom_to_llama()


def other_head(monkeypatch):
    model = make("llama")
    model.lm_head = torch.nn.Sequential(model.lm_head)
    return lambda: patches.apply_bitloom(model)


def other_head_later(monkeypatch):
    model = make("llama")
    model.lm_head = torch.nn.Sequential(model.lm_head)

    def run():
        with patches.apply_bitloom_to_llama():
            model(**batch())

    return run


MISTAKES = {
    "another release": (
        changed_source,
        "expected LlamaRMSNorm.forward as in a release that bitloom knows, got another",
    ),
    "an older release": (
        missing_class,
        "apply_bitloom_to_llama: expected LlamaMLP.forward in transformers.models.llama",
    ),
    "another model": (
        lambda _: lambda: patches.apply_bitloom(make("llama").model.layers[0]),
        "apply_bitloom: argument model: expected one of llama, mistral",
    ),
    "another function": (
        lambda _: lambda: patches.apply_bitloom_to_qwen2(model=make("llama")),
        "apply_bitloom_to_qwen2: argument rope: expected a model with a Qwen2",
    ),
    "a head that is no Linear": (other_head, "of LlamaForCausalLM: expected lm_head of type torch.nn.Linear"),
    "such a head of a patched class": (
        other_head_later,
        "got lm_head of type torch.nn.modules.container.Sequential: leave it out when applying",
    ),
    "an activation": (
        lambda _: lambda: patches.apply_bitloom(make("llama", hidden_act="relu")),
        "expected activation silu, gelu or gelu_pytorch_tanh, got ReLU",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_refusals_change_nothing(name, monkeypatch):
    prepare, message = MISTAKES[name]
    run = prepare(monkeypatch)
    before = functions("llama")
    with pytest.raises(bitloom.UserError) as caught:
        run()
    assert message in str(caught.value)
    assert functions("llama") == before


def test_a_release_that_lacks_what_is_imported():
    code = "import sys; sys.modules['transformers.loss.loss_utils'] = None; import bitloom.transformers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    version = transformers.__version__
    message = f"ImportError: bitloom.transformers: expected a transformers that it knows, got {version}: "
    assert done.returncode and message in done.stderr


def test_unknown_options():
    with pytest.raises(TypeError, match="unexpected keyword argument 'geglu'"):
        patches.apply_bitloom_to_llama(geglu=True)
