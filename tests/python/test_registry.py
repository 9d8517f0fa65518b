"""What Python can ask about kernels, targets and threads."""

import ast
from pathlib import Path

import bitloom
import pytest


def test_kernels_describe_themselves():
    row = bitloom.kernels()["rms_norm"]
    assert row.name == "rms_norm" and row.source.endswith("kernels/rms_norm/RmsNorm.cpp")
    assert [variant[0].dtype for variant in row.variants] == ["f32", "f16", "bf16"]
    parameters = {parameter.name: parameter for parameter in row.variants[0]}
    x, weight, out, eps, rows = (parameters[name] for name in ("x", "weight", "out", "eps", "block_rows"))
    assert (x.name, x.kind, x.rank, x.output, x.shape) == ("x", "view", 2, False, ["rows", "cols"])
    assert out.output and weight.shape == ["cols * weighted"]
    assert eps.kind == "scalar" and eps.default == pytest.approx(1e-6)
    assert rows.kind == "meta" and rows.default == "max(1, 1024 / next_pow2(block))"
    assert parameters["resident"].dtype == "b1"
    assert "rows=3 cols=17 weighted=1" in row.tests and row.benchmarks


def test_shapes_of_a_call():
    row = bitloom.kernels()["low_bit_gemv"]
    assert row.shapes(m=2, n=3, k=100, bits=3, group=32) == {
        "x": ("f32", (2, 100)),
        "weight": ("u8", (3, 48)),
        "scales": ("f32", (3, 4)),
        "out": ("f32", (2, 3)),
    }
    assert row.shapes("f16", m=2, n=3, k=128, asymmetric=True)["zeros"] == ("f32", (3, 1))
    with pytest.raises(bitloom.UserError, match="expected element type f32, f16, bf16, got i8"):
        row.shapes("i8", m=1, n=1, k=128)


@pytest.mark.parametrize("kernel", bitloom.kernels())
def test_tile_ir_of_every_kernel(kernel):
    text = bitloom.inspect(kernel)
    assert f"func.func @{kernel}(" in text and "tile.store" in text


def test_inspect_takes_dtype_and_sizes():
    assert "tensor<256xbf16>" in bitloom.inspect("rms_norm", dtype="bf16", cols=199)
    assert "tensor<64xf32>" in bitloom.inspect("rms_norm", block=64, resident=False)
    with pytest.raises(bitloom.UserError, match="unknown stage 'ptx'"):
        bitloom.inspect("rms_norm", emit="ptx")


def test_targets():
    names = bitloom.targets()
    assert names[:2] == ["host", "cuda"] and {"aarch64", "sm_90a", "x86-64"} <= set(names)


def test_threads():
    before = bitloom.num_threads()
    try:
        bitloom.set_num_threads(2)
        assert bitloom.num_threads() == 2
    finally:
        bitloom.set_num_threads(before)


def test_stub_declares_every_function():
    """The stub lies beside the built module, and says what the functions take."""
    stub = Path(bitloom._bitloom.__file__).with_name("_kernels.pyi").read_text()
    functions = {node.name: node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)}
    assert functions.keys() - {"add"} == bitloom.kernels().keys()
    arguments = functions["rms_norm_backward"].args
    assert [argument.arg for argument in arguments.args] == ["dy", "x", "weight", "rstd", "eps", "offset"]
    assert {argument.arg: ast.unparse(argument.annotation) for argument in arguments.kwonlyargs} == {
        "dx": "Array | None",
        "dweight": "Array | None",
        "weighted": "bool | None",
        "has_rstd": "bool | None",
        "cluster": "int | None",
        "block": "int | None",
        "block_rows": "int | None",
        "programs": "int | None",
        "resident": "bool | None",
        "stages": "int",
    }
    assert ast.unparse(functions["rms_norm_backward"].returns) == "A | tuple[A, A]"
