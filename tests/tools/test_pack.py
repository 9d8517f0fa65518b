"""bitloom pack: from numpy's files and safetensors to a file that is mapped."""

import json
import re
import subprocess
from pathlib import Path

import bitloom
import numpy as np
import pytest
import torch

BITLOOM = Path(__file__).resolve().parents[2] / "build" / "bin" / "bitloom"


def pack(*words, code=0) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in (BITLOOM, "pack", *words)], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def write_safetensors(path: Path, tensors: dict, metadata=None, padding: int = 0) -> None:
    """By the format's description: length, JSON, bytes."""
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode() + b" " * padding
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def tensor(array: torch.Tensor):
    name = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}[array.dtype]
    return name, list(array.shape), array.contiguous().view(torch.uint8).numpy().tobytes()


def test_npy(tmp_path):
    for dtype in (np.float32, np.float16):
        values = np.random.default_rng(1).standard_normal((17, 199)).astype(dtype)
        np.save(tmp_path / "layer.npy", values)
        out = pack(
            tmp_path / "layer.npy", "--bits", 3, "--group", 64, "--asymmetric", "-o", tmp_path / "out.blw"
        ).stdout
        assert re.search(r"^layer +17 x 199 +bits=3,order=planar,block=64 +64 +f32, zeros +\S+ +\d+\.\d\d$", out, re.M)
        bitloom.write_packed(str(tmp_path / "wanted.blw"), {"layer": values}, bits=3, group=64, asymmetric=True)
        assert (tmp_path / "out.blw").read_bytes() == (tmp_path / "wanted.blw").read_bytes()


@pytest.mark.parametrize("padding", [0, 1])  # an odd header: the tensors are not aligned to their elements
def test_safetensors(tmp_path, padding):
    torch.manual_seed(1)
    given = {
        "model.a.weight": torch.randn(5, 64).half(),
        "model.norm.weight": torch.randn(64),
        "model.b.weight": torch.randn(3, 48).bfloat16(),
        "model.ids": torch.zeros(2, 2, dtype=torch.int64),
        "model.ü.weight": torch.randn(2, 16),
    }
    source, output = tmp_path / "model.safetensors", tmp_path / "model.blw"
    write_safetensors(source, {name: tensor(value) for name, value in given.items()}, {"format": "pt"}, padding)
    done = pack(source, "--group", 16, "--scales", "f16", "--target", "x86", "-o", output)
    assert "left out, no matrix of f16, bf16 or f32: model.norm.weight: F32 of 1 dimensions" in done.stderr
    assert "model.ids: I64 of 2 dimensions" in done.stderr and "GB/s" in done.stdout
    wanted = {name: value for name, value in given.items() if value.dim() == 2 and value.is_floating_point()}
    bitloom.write_packed(str(tmp_path / "wanted.blw"), wanted, group=16, scales="f16", target="x86")
    assert output.read_bytes() == (tmp_path / "wanted.blw").read_bytes()
    listed = pack("--list", output).stdout
    assert listed.endswith(f"{output}: 3 tensors for x86, every checksum as it should be\n")
    only = pack(source, "--only", "model.b", "--packing", "bits=2,order=high,block=8", "-o", output).stdout
    assert "model.b.weight" in only and "bits=2,order=high,block=8" in only and "model.a" not in only


def test_stored_size(tmp_path):
    """4.5 bits a weight: 4 bits, and a scale of f16 for 32."""
    np.save(tmp_path / "w.npy", np.ones((64, 4096), np.float16))
    out = pack(tmp_path / "w.npy", "--group", 32, "--scales", "f16", "-o", tmp_path / "w.blw").stdout
    assert re.search(r"^w +64 x 4096 .* 4\.50$", out, re.M)
    assert (tmp_path / "w.blw").stat().st_size <= 64 * 4096 * 4.5 / 8 + 1024
    out = pack(tmp_path / "w.npy", "--group", "row", "--bits", 8, "-o", tmp_path / "w.blw").stdout
    assert re.search(r"^w +64 x 4096 +bits=8,order=planar,block=128 +4096 +f32 +0\.26 +8\.01$", out, re.M)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPX", ".npy: expected numpy's .npy, got another format"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr'", ".npy: expected a header of numpy's .npy, got a damaged one"),
        (b"", ".npy: expected tensors, got an empty file"),
        (
            b"\x93NUMPY\x01\x00\x40\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }".ljust(64),
            "tensor in: expected 48 bytes for its elements, got 0",
        ),
        (
            b"\x93NUMPY\x01\x00\x40\x00" + b"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }".ljust(64),
            "expected an array in C order, got one in Fortran order",
        ),
        (
            b"\x93NUMPY\x01\x00\x40\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4), }".ljust(64),
            "expected a matrix of f16, bf16 or f32 to pack, got none",
        ),
    ],
)
def test_damaged_npy_is_named(tmp_path, content, message):
    (tmp_path / "in.npy").write_bytes(content)
    assert message in pack(tmp_path / "in.npy", "-o", tmp_path / "out", code=1).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 17]}, "it was cut off"),
        ({"dtype": "F16", "shape": [2, 4], "data_offsets": [8, 0]}, "expected its bytes inside of the file"),
        ({"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 16]}, "expected 12 bytes for its elements, got 16"),
        ({"dtype": "F16", "shape": [2, -4], "data_offsets": [0, 16]}, "expected whole numbers as shape"),
        ({"dtype": "F16", "shape": [2, 4]}, "expected a dtype, a shape and data_offsets, got less"),
        ({"dtype": "F16", "shape": [2**40, 2**40], "data_offsets": [0, 16]}, "not too many elements"),
        ([], "expected a dtype, a shape and data_offsets, got less"),
    ],
)
def test_damaged_safetensors_are_named(tmp_path, entry, message):
    text = json.dumps({"w": entry}).encode()
    (tmp_path / "in.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 16)
    said = pack(tmp_path / "in.safetensors", "-o", tmp_path / "out", code=1).stderr
    assert f"{tmp_path}/in.safetensors: tensor w: " in said and message in said


def test_headers_that_are_none(tmp_path):
    source = tmp_path / "in.safetensors"
    for content, message in (
        (b"\0" * 7, "expected a header of .safetensors, got none"),
        (b"\xff" * 16, "expected a header of .safetensors, got none"),
        (b"\x03" + b"\0" * 7 + b"{]}", "expected a header of JSON, got a mistake in it"),
        (b"\x02" + b"\0" * 7 + b"[]", "expected a header of JSON, got no object"),
    ):
        source.write_bytes(content)
        assert f"{source}: {message}" in pack(source, "-o", tmp_path / "out", code=1).stderr


def test_a_target_decides_the_packing(tmp_path):
    np.save(tmp_path / "w.npy", np.ones((17, 199), np.float32))
    output = tmp_path / "out"
    assert (
        "order=columns,block=4,rows=64,lanes=4,bias=low"
        in pack(tmp_path / "w.npy", "-o", output, "--target", "aarch64+dotprod", "--group", 32).stdout
    )
    assert "1 tensors for aarch64," in pack("--list", output).stdout
    assert "order=fragments,block=128,rows=2" in pack(tmp_path / "w.npy", "-o", output, "--target", "sm_90a").stdout
    assert "1 tensors for gpu," in pack("--list", output).stdout


def test_mistakes_in_the_command_line(tmp_path):
    np.save(tmp_path / "w.npy", np.ones((8, 128), np.float32))
    source, output = tmp_path / "w.npy", tmp_path / "out"
    for words, message in (
        ((source,), "expected -o FILE, to write to, or --list; got neither"),
        ((source, "-o", output, "--bits", 9), "option --bits: expected a number from 1 to 8, got '9'"),
        ((source, "-o", output, "--scales", "i8"), "expected scales of f32, f16 or bf16, got i8"),
        ((source, "-o", output, "--bits", 4, "--packing", "x"), "expected --bits or --packing, got both"),
        ((source, "-o", output, "--target", "arm64"), "unknown target 'arm64': expected one of"),
    ):
        assert message in pack(*words, code=2).stderr
    (tmp_path / "w.bin").write_bytes(b"x")
    assert "w.bin: expected a file of .npy or .safetensors" in pack(tmp_path / "w.bin", "-o", output, code=1).stderr
    assert f"could not write '{tmp_path}/no/out'" in pack(source, "-o", tmp_path / "no" / "out", code=2).stderr
    np.save(source, np.full((2, 8), np.nan, np.float32))
    assert "tensor w: expected finite values" in pack(source, "-o", output, code=1).stderr
    assert list(tmp_path.glob("out*")) == []
