"""bitloom.tune and `bitloom tune`: what they find, who takes it, and what they say of mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bitloom
import pytest
import torch

BITLOOM = Path(__file__).resolve().parents[2] / "build/bin/bitloom"


def lines(text, word):
    return [line.split(None, 1)[1] for line in text.splitlines() if line.split()[:1] == [word]]


def metas(text):
    return dict(line.split(" = ", 1) for line in lines(text, "meta"))


def environment(folder, **more):
    return {**os.environ, "BITLOOM_CACHE_DIR": str(folder), **more}


def explained(folder, **more):
    """What another process says of a call of 24 rows, and of one of 25."""
    sizes = "dtype='f32', m=m, n=40, k=56, b_transposed=0"
    code = f"import bitloom; [print(bitloom.explain('matmul', {sizes}), '--') for m in (24, 25)]"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(folder, **more)
    )
    return [metas(text) for text in done.stdout.split("--")[:2]]


def test_in_a_shell(tmp_path):
    """The table lies beside the cache; another process takes it for the very sizes, and says so."""
    command = [BITLOOM, "tune", "matmul", "--dtype", "f32", "--set", "m=24", "n=40", "k=56", "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:4] == ["kernel", "dtype", "sizes", "target"]
    assert f"kept in {tmp_path}/tuned.json" in done.stdout
    table = json.loads((tmp_path / "tuned.json").read_text())
    (row,) = table["rows"]
    assert table["bitloom_tuned"] == 1 and (row["kernel"], row["variant"]) == ("matmul", "f32")
    assert {"m": 24, "n": 40, "k": 56, "activation": 0, "biased": 0}.items() <= row["sizes"].items()
    assert set(row["metas"]) == set(bitloom.kernels()["matmul"].tunables) and row["ms"] <= row["usual_ms"]

    row["metas"] |= {"block_m": 16, "block_k": 32}  # as if another had been found
    (tmp_path / "tuned.json").write_text(json.dumps(table))
    ours, others = explained(tmp_path)
    assert ours["block_m"] == "16, tuned; by default 32" and ours["block_k"].startswith("32, tuned")
    assert "the default" in others["block_m"]
    elsewhere = tmp_path / "shipped.json"
    (tmp_path / "tuned.json").rename(elsewhere)
    assert "the default" in explained(tmp_path)[0]["block_m"]
    assert explained(tmp_path, BITLOOM_TUNED=str(elsewhere))[0]["block_m"].startswith("16, tuned")
    (tmp_path / "tuned.json").write_text("damaged")
    assert "the default" in explained(tmp_path)[0]["block_m"]


def test_of_arrays(tmp_path):
    """The same process takes it at once, also where it called before."""
    file = tmp_path / "table.json"
    a, b = torch.randn(23, 57), torch.randn(41, 57).t()
    before = bitloom.matmul(a, b)
    found = bitloom.tune(bitloom.matmul, a, b, runs=1, file=str(file))
    assert found["kernel"] == "matmul" and found["dtype"] == "f32" and found["file"] == str(file)
    assert {"m": 23, "n": 41, "k": 57, "b_transposed": 1}.items() <= found["sizes"].items()
    assert found["timed"] > 10 and found["ms"] <= found["usual_ms"]
    now = metas(bitloom.explain(bitloom.matmul, a, b))
    for name, value in found["metas"].items():
        assert now[name].startswith(f"{value}, tuned; by default ")
    assert "given" in metas(bitloom.explain(bitloom.matmul, a, b, block_m=8))["block_m"]
    assert "the default" in metas(bitloom.explain(bitloom.matmul, a, b, block_m=8))["block_n"]
    assert "the default" in metas(bitloom.explain(bitloom.matmul, a, b, activation="relu"))["block_m"]
    assert "the default" in metas(bitloom.explain(bitloom.matmul, a, b.contiguous()))["block_m"]
    torch.testing.assert_close(bitloom.matmul(a, b), before, rtol=1e-5, atol=1e-5)


def test_of_a_product(tmp_path):
    config = bitloom.MatmulConfig(
        N=33, K=128, A_dtype="int8", W_dtype="int4", accum_dtype="int32", out_dtype="float32", with_scaling=True
    )
    matmul = bitloom.Matmul(config, target="cuda")
    weight, scale = matmul.transform_weight(torch.randint(-8, 8, (33, 128))), torch.rand(33, 1)
    x = torch.randn(300, 128)
    before = matmul(x, weight, scale)
    found = bitloom.tune(matmul, x, weight, scale, runs=1, file=str(tmp_path / "table.json"))
    assert [each["kernel"] for each in found] == ["low_bit_unpack", "matmul"]
    assert found[1]["sizes"]["row_scales"] == 1 and found[1]["dtype"] == "i8/f32"
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 2
    assert bitloom.explain(matmul, x, weight, scale).count(", tuned; by default ") == 1 + len(found[1]["metas"])
    assert torch.equal(matmul(x, weight, scale), before)  # sums of integers are exact


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rms_norm", "--set", "rows=3", "cols=5"], 1, "rms_norm: expected a kernel with parameters to tune, got one"),
        (["matmul", "--set", "m=3", "n=5", "k=7", "block_m=8"], 2, "matmul: expected no value for block_m, which is"),
        (["matmul", "--set", "m=3", "n=5"], 2, "matmul: expected a size for k: --set k=NUMBER"),
        (
            ["matmul", "--target", "aarch64", "--set", "m=3", "n=5", "k=7"],
            1,
            "expected a target that this machine runs",
        ),
        (["matmul", "--runs", "0"], 2, "--runs"),
    ],
)
def test_mistakes_in_a_shell(tmp_path, words, code, message):
    done = subprocess.run([BITLOOM, "tune", *words], capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == code and message in done.stderr
    assert not (tmp_path / "tuned.json").exists()


def test_mistakes_are_named(tmp_path):
    x = torch.ones(3, 5)
    with pytest.raises(bitloom.UserError, match="rms_norm: expected a kernel with parameters to tune, got one without"):
        bitloom.tune(bitloom.rms_norm, x, file=str(tmp_path / "table.json"))
    with pytest.raises(bitloom.UserError, match="matmul: argument block_m: expected none, since it is tuned, got 8"):
        bitloom.tune("matmul", m=3, n=5, k=7, block_m=8)
    with pytest.raises(bitloom.UserError, match="tune: expected the arrays to say the element types and the target"):
        bitloom.tune(bitloom.matmul, x, x.t(), target="host")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(bitloom.UserError, match="table of tuned configurations: expected JSON"):
        bitloom.tune(bitloom.matmul, x, x.t(), runs=1, file=str(tmp_path / "mine.txt"))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    bad = environment(tmp_path, BITLOOM_TUNED=str(tmp_path / "mine.txt"))
    code = "import bitloom, numpy as np; bitloom.matmul(np.ones((3, 5), 'f'), np.ones((5, 3), 'f'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=bad)
    assert "UserError: table of tuned configurations: expected JSON" in done.stderr
