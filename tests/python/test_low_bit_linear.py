"""bitloom.Linear: its buffers, the layers of GPTQ and AWQ, and transformers' models made of it."""

import copy
import io
import types

import bitloom
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from bitloom.transformers import quantize


def linear_of(n=64, k=96, bits=4, mode="original", bias=True, **more):
    fields = {"A_dtype": "float32", "out_dtype": "float32", "W_dtype": f"uint{bits}", "group_size": 32}
    fields |= {"with_scaling": True, "with_zeros": True, "zeros_mode": mode, "target": "cpu"}
    return bitloom.Linear(k, n, bias, **fields | more)


def words_of(fields, bits):
    """A stream of bits, low ones first, along the first dimension: i32. By Python's own integers."""
    columns = []
    for column in fields.t().tolist():
        stream = sum(value << (bits * i) for i, value in enumerate(column))
        words = [(stream >> 32 * i) & 0xFFFFFFFF for i in range(len(column) * bits // 32)]
        columns.append([word - (1 << 32) if word >> 31 else word for word in words])
    return torch.tensor(columns, dtype=torch.int32).t().contiguous()


def gptq_layer(bits, n=64, k=96, group=32):
    torch.manual_seed(bits)
    codes, zeros = torch.randint(0, 1 << bits, (k, n)), torch.randint(1, 1 << bits, (k // group, n))
    scales, bias = torch.rand(k // group, n), torch.rand(n)
    module = types.SimpleNamespace(
        qweight=words_of(codes, bits),
        qzeros=words_of((zeros - 1).t(), bits).t().contiguous(),
        scales=scales,
        bias=bias,
        g_idx=torch.arange(k, dtype=torch.int32) // group,
    )
    return module, ((codes - zeros.repeat_interleave(group, 0)) * scales.repeat_interleave(group, 0)).t()


def awq_layer(n=64, k=96, group=32):
    torch.manual_seed(0)
    codes, zeros, scales = (
        torch.randint(0, 16, (k, n)),
        torch.randint(0, 16, (k // group, n)),
        torch.rand(k // group, n),
    )

    def packed(fields):
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        shuffled = fields.view(len(fields), -1, 8)[:, :, order].flatten(1)
        return words_of(shuffled.t(), 4).t().contiguous()

    module = types.SimpleNamespace(qweight=packed(codes), qzeros=packed(zeros), scales=scales, bias=None)
    return module, ((codes - zeros.repeat_interleave(group, 0)) * scales.repeat_interleave(group, 0)).t()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("mode", ["original", "rescale", "quantized"])
def test_layers_of_gptq(bits, mode):
    module, matrix = gptq_layer(bits)
    linear = linear_of(bits=bits, mode=mode)
    linear.repack_from_gptq(module, device="cpu")
    x = torch.randn(2, 5, 96)
    torch.testing.assert_close(linear(x), x @ matrix.t() + module.bias, rtol=1e-4, atol=1e-3)


def test_layers_of_awq():
    module, matrix = awq_layer()
    linear = linear_of(bias=False)
    linear.repack_from_awq(module)
    x = torch.randn(5, 96)
    torch.testing.assert_close(linear(x), x @ matrix.t(), rtol=1e-4, atol=1e-3)


def test_layers_that_are_refused():
    def says(message, call):
        with pytest.raises(bitloom.UserError) as caught:
            call()
        assert message in str(caught.value)

    module, _ = gptq_layer(4)
    linear = linear_of()
    shuffled = types.SimpleNamespace(**vars(module) | {"g_idx": module.g_idx.flip(0)})
    says("g_idx: expected groups of 32 columns in their order", lambda: linear.repack_from_gptq(shuffled))
    cut = types.SimpleNamespace(**vars(module) | {"qweight": module.qweight[1:]})
    says("argument weight: expected shape (64, 96), got (64, 88)", lambda: linear.repack_from_gptq(cut))
    cut = types.SimpleNamespace(**vars(module) | {"qweight": module.qweight.float()})
    says("qweight: expected a matrix of int32, got torch.float32", lambda: linear.repack_from_gptq(cut))
    signed = linear_of(W_dtype="int4")
    says("expected a W_dtype of uint1 to uint8, with_scaling and", lambda: signed.repack_from_gptq(module))
    says("expected a W_dtype of uint4 for AWQ, got uint3", lambda: linear_of(bits=3).repack_from_awq(awq_layer()[0]))
    codes = torch.zeros(64, 96, dtype=torch.uint8)
    says(
        "argument scales: expected shape (64, 3), got (64, 4)",
        lambda: linear.load_and_transform_weight(codes, torch.ones(64, 4)),
    )
    linear.repack_from_gptq(module)
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    says(
        "expected codes of uint4, from 0 to 15, got 16",
        lambda: linear.load_and_transform_weight(codes + 16, torch.ones(64, 3), torch.ones(64, 3), torch.ones(64)),
    )
    assert all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())


def test_state_and_types():
    """Buffers travel in a state_dict; an input of another float type is converted, as BitBLAS does."""
    module, matrix = gptq_layer(4)
    linear, other = linear_of(), linear_of()
    linear.repack_from_gptq(module)
    assert dict(linear.named_buffers()).keys() == {"qweight", "scales", "zeros", "bias"}
    file = io.BytesIO()
    torch.save(linear.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    x = torch.randn(3, 96)
    assert torch.equal(other(x), linear(x)) and linear(x.half()).dtype == torch.float32
    assert torch.equal(copy.deepcopy(linear)(x), linear(x))
    assert "96, 64, float32 x uint4, group_size=32" in repr(linear)

    plain = bitloom.Linear(96, 64, A_dtype="float16", W_dtype="float16", target="cpu")
    plain.load_and_transform_weight(matrix.half())
    torch.testing.assert_close(plain(x.half()).float(), x @ matrix.t(), rtol=1e-2, atol=0.5)


def test_compiles_without_breaks():
    module, _ = gptq_layer(4)
    linear = linear_of()
    linear.repack_from_gptq(module)
    x = torch.randn(3, 96, requires_grad=True)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    y.sum().backward()
    gradient, x.grad = x.grad, None
    torch.testing.assert_close(y, linear(x))
    linear(x).sum().backward()
    torch.testing.assert_close(gradient, x.grad)


# ---- Models ------------------------------------------------------------------------------------------------------


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=199, hidden_size=96, intermediate_size=136, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attention_bias=True, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def generate(model):
    ids = torch.randint(1, 199, (2, 7), generator=torch.Generator().manual_seed(1))
    return model.generate(ids, max_new_tokens=9, do_sample=False, attention_mask=torch.ones_like(ids))


def test_a_model_of_few_bits_generates():
    model, ids = llama(), torch.arange(1, 18)[None]
    with torch.no_grad():
        expected, tokens = model(ids).logits, generate(model)
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    reports = quantize(model, bits=8, group_size=32)
    assert reports.keys() == layers and "lm_head" in layers
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert all(report.relative < 0.01 for report in reports.values())
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0.05 * expected.abs().max().item())
    assert torch.equal(generate(model), tokens)


@pytest.mark.parametrize(("W_dtype", "method"), [(None, "minmax"), (None, "hqq"), ("nf4", "minmax")])
def test_four_bits_are_near(W_dtype, method):
    """Each layer computes with its dequantised weight; the model learns through them."""
    model, plain = llama(), llama()
    reports = quantize(model, bits=4, group_size=128, W_dtype=W_dtype, method=method, skip=("lm_head",))
    assert isinstance(model.lm_head, torch.nn.Linear) and "lm_head" not in reports
    for name in reports:
        layer = plain.get_submodule(name)
        layer.weight.data = bitloom.quantize(layer.weight.data, W_dtype or "uint4", 128, method).dequantize()
    ids = torch.arange(1, 18)[None]
    for each in (model, plain):
        each(input_ids=ids, labels=ids).loss.backward()
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-3, atol=1e-4)
    mine, its = (each.model.embed_tokens.weight.grad for each in (model, plain))
    torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-5)
    assert generate(model).shape == (2, 16)


def test_kept_in_files_and_copied(tmp_path):
    """A state_dict loads into a model that is quantised alike."""
    model, ids = llama(), torch.arange(1, 18)[None]
    quantize(model, bits=3, group_size=32)
    model.save_pretrained(tmp_path)
    other = llama()
    quantize(other, bits=3, group_size=32)
    for buffer in other.buffers():
        buffer.data = torch.zeros_like(buffer) if buffer.dtype == torch.int8 else buffer.data
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"), strict=False)
    for each in (other, copy.deepcopy(model)):
        assert torch.equal(each(ids).logits, model(ids).logits) and torch.equal(generate(each), generate(model))


def test_which_layers():
    """One that has several names stays one; names to skip may be one text; a format's own group size is taken."""
    shared = torch.nn.Linear(32, 32)
    model = torch.nn.ModuleDict({"a": shared, "b": shared, "c": torch.nn.Linear(32, 8)})
    reports = quantize(model, W_dtype="mxfp4", skip="c")
    assert reports.keys() == {"a", "b"} and model["a"] is model["b"] and model["a"].config.group_size == 32
    assert isinstance(model["c"], torch.nn.Linear)


def test_models_that_are_refused():
    model = llama()
    model.lm_head.weight.data[3, 5] = torch.nan
    with pytest.raises(bitloom.UserError) as caught:
        quantize(model)
    assert "layer lm_head: quantize: argument weight: expected finite values" in str(caught.value)
    assert isinstance(model.model.layers[0].mlp.up_proj, torch.nn.Linear)
    with pytest.raises(bitloom.UserError, match="expected a linear layer in it, got none"):
        quantize(torch.nn.Sequential())
    with pytest.raises(bitloom.UserError, match="expected a model with linear layers in it, got a Linear"):
        quantize(torch.nn.Linear(32, 32))
    attention = torch.nn.MultiheadAttention(32, 4)  # reads its layer's weight itself
    with pytest.raises(bitloom.UserError, match="layer out_proj: expected a torch.nn.Linear, got a .*Quantizable"):
        quantize(attention)
    with pytest.raises(bitloom.UserError, match="W_dtype: expected one of int1"):
        quantize(llama(), bits=9)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("scales", ["f32", "f16", "bf16"])
def test_packed_files(tmp_path, asymmetric, scales):
    """In another packing than the layer's; and what does not fit is named."""
    torch.manual_seed(0)
    weight, path, packing = torch.randn(17, 199), str(tmp_path / "w.blw"), bitloom.Packing(3, "low", 16)
    bitloom.write_packed(path, {"w": weight}, packing=packing, group=48, asymmetric=asymmetric, scales=scales)
    linear = linear_of(
        17, 199, bias=False, W_dtype="uint3" if asymmetric else "int3", group_size=48, with_zeros=asymmetric
    )
    tensor = bitloom.PackedFile(path)["w"]
    linear.load_packed(tensor)
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[scales]
    found = bitloom.quantize(weight, linear.config.W_dtype, 48)
    assert linear.scales.dtype == kind and torch.equal(linear.scales, found.scale.to(kind))
    codes = torch.from_numpy(bitloom.unpack(np.array(tensor.weight), packing, signed=not asymmetric)[:, :199])
    zeros = linear.zeros.float().repeat_interleave(48, 1)[:, :199] if asymmetric else 0
    expected = (codes - zeros) * linear.scales.float().repeat_interleave(48, 1)[:, :199]
    torch.testing.assert_close(linear(torch.eye(199)).t(), expected, rtol=1e-6, atol=1e-7)
    for fields, message in (
        ({"W_dtype": "uint4"}, "tensor w: W_dtype: expected uint4, got"),
        ({"group_size": 32}, "tensor w: group_size: expected 32, got 48"),
        ({"n": 18}, "tensor w: shape: expected (18, 199), got (17, 199)"),
    ):
        given = {"n": 17, "k": 199, "bias": False, "W_dtype": linear.config.W_dtype, "group_size": 48}
        other = linear_of(**given | {"with_zeros": asymmetric} | fields)
        with pytest.raises(bitloom.UserError) as caught:
            other.load_packed(bitloom.PackedFile(path)["w"])
        assert message in str(caught.value)
