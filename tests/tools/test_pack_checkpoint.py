"""bitloom pack --from: the layers of GPTQ and AWQ, field by field, and files that are not as they should be."""

import subprocess
from pathlib import Path

import bitloom
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

BITLOOM = Path(__file__).resolve().parents[2] / "build" / "bin" / "bitloom"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pack(*words, code=0) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in (BITLOOM, "pack", *words)], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def stream(fields, bits):
    """Down the columns, by way of single bits: (n, columns) to i32 (n · bits / 32, columns)."""
    single = (np.asarray(fields)[:, None, :] >> np.arange(bits)[:, None]) & 1
    single = single.reshape(-1, 32, single.shape[-1]).astype(np.uint64)
    words = (single << np.arange(32, dtype=np.uint64)[:, None]).sum(1)
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


class Layer:
    """Random codes (K, N), zero points and scales (groups, N), and what they stand for (N, K)."""

    def __init__(self, bits, n=72, k=192, group=64, dtype=torch.float16, seed=0):
        random = np.random.default_rng(seed)
        self.bits, self.group, self.k = bits, group, k
        self.codes, self.zeros = random.integers(0, 1 << bits, (k, n)), random.integers(0, 1 << bits, (k // group, n))
        self.codes[: 1 << bits, 0] = np.arange(min(1 << bits, k))[: len(self.codes[: 1 << bits])]
        self.scales = torch.from_numpy(random.random((k // group, n))).to(dtype)

    def gptq(self, above=1):
        zeros = (self.zeros - above) % (1 << self.bits)
        return {
            "qweight": stream(self.codes, self.bits),
            "qzeros": stream(zeros.T, self.bits).t().contiguous(),
            "scales": self.scales,
            "g_idx": torch.arange(self.k, dtype=torch.int32) // self.group,
        }

    def awq(self):
        def words(fields):
            shuffled = fields.reshape(len(fields), -1, 8)[:, :, AWQ_ORDER].reshape(len(fields), -1)
            return stream(shuffled.T, 4).t().contiguous()

        return {"qweight": words(self.codes), "qzeros": words(self.zeros), "scales": self.scales}

    def check(self, tensor):
        """The packed file has the very numbers."""
        assert tensor.shape == self.codes.T.shape and tensor.bits == self.bits
        assert tensor.group == self.group and tensor.asymmetric
        fields = bitloom.unpack(np.array(tensor.weight), tensor.packing)[:, : self.k]
        np.testing.assert_array_equal(fields, self.codes.T)
        np.testing.assert_array_equal(np.asarray(tensor.zeros), self.zeros.T)
        np.testing.assert_array_equal(np.asarray(tensor.scales), self.scales.float().numpy().T)


def save(path, layers, **others):
    tensors = {f"{layer}.{field}": value for layer, fields in layers.items() for field, value in fields.items()}
    save_file(tensors | others, path)
    return path


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("kind", ["gptq", "gptq_v2"])
def test_gptq(tmp_path, bits, kind):
    layer = Layer(bits, n=96)
    source = save(tmp_path / "m.safetensors", {"model.q_proj": layer.gptq(above=1 if kind == "gptq" else 0)})
    pack(source, "--from", kind, "-o", tmp_path / "m.blw")
    layer.check(bitloom.PackedFile(tmp_path / "m.blw")["model.q_proj.weight"])


def test_awq(tmp_path):
    layer = Layer(4, dtype=torch.bfloat16)
    source = save(tmp_path / "m.safetensors", {"q": layer.awq()})
    pack(source, "--from", "awq", "-o", tmp_path / "m.blw")
    tensor = bitloom.PackedFile(tmp_path / "m.blw")["q.weight"]
    layer.check(tensor)
    linear = bitloom.Linear(
        192, 72, A_dtype="float32", W_dtype="uint4", out_dtype="float32", group_size=64, with_scaling=True,
        with_zeros=True, target="cpu",
    )  # fmt: skip
    linear.load_packed(tensor)
    expected = (layer.codes - layer.zeros.repeat(64, 0)) * layer.scales.float().numpy().repeat(64, 0)
    np.testing.assert_array_equal(linear(torch.eye(192)).numpy(), expected.astype(np.float32))


def test_a_model_in_two_files(tmp_path):
    """A layer's fields may lie in several; what is of no layer is said, and --only chooses."""
    first, second = Layer(4, seed=1), Layer(4, seed=2, group=32)
    fields = first.gptq()
    one = save(tmp_path / "1.safetensors", {"a": {"qweight": fields.pop("qweight")}}, **{"b.bias": torch.ones(72)})
    rest = {"a": fields, "b": second.gptq()}
    two = save(tmp_path / "2.safetensors", rest, **{"norm.weight": torch.ones(192), "head.weight": torch.ones(3, 192)})
    done = pack(one, two, "--from", "gptq", "--target", "gpu", "-o", tmp_path / "m.blw")
    for said in ("norm.weight: F32 of 1", "head.weight: F32 of 2", "b.bias: F32 of 1"):
        assert f"left out, no low-bit weight: {said} dimensions" in done.stderr
    file = bitloom.PackedFile(tmp_path / "m.blw", "gpu")
    file.verify()
    assert file.keys() == ["a.weight", "b.weight"]
    first.check(file["a.weight"])
    second.check(file["b.weight"])
    pack(two, "--from", "gptq", "--only", "b.", "-o", tmp_path / "b.blw")
    assert bitloom.PackedFile(tmp_path / "b.blw").keys() == ["b.weight"]


def without(name):
    return lambda fields: fields.pop(name)


def replaced(name, change):
    return lambda fields: fields.update({name: change(fields[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("qzeros"), "layer q: expected the fields qweight, qzeros and scales, got no qzeros"),
        (
            lambda fields: fields.update(qscale=torch.ones(1)),
            "layer q: unknown field qscale: expected qweight, qzeros, scales, g_idx and bias",
        ),
        (replaced("qweight", torch.Tensor.float), "field qweight: expected a matrix of I32, got F32 of 2 dimensions"),
        (replaced("scales", torch.Tensor.double), "field scales: expected a matrix of F16, BF16 or F32, got F64"),
        (replaced("qzeros", lambda t: t[:, :-1].contiguous()), "field qzeros: expected 1 to 8 bits for each of 72"),
        (replaced("qzeros", lambda t: t[:-1].contiguous()), "field qzeros: expected 3 groups as scales has, got 2"),
        (
            replaced("qweight", lambda t: t[:, 1:].contiguous()),
            "field qweight: expected words of 4 bits for 72",
        ),
        (replaced("qweight", lambda t: t[1:].contiguous()), "expected groups of one size for 184 columns, got 3"),
        (replaced("g_idx", lambda t: t[1:].contiguous()), "field g_idx: expected 192 numbers of I32, got I32 of 764"),
        (replaced("g_idx", lambda t: t.flip(0)), "g_idx: expected columns in the order of their groups of 64, got"),
        (replaced("scales", lambda t: t * torch.inf), "expected finite scales that f32 holds, got"),
    ],
)
def test_layers_that_are_refused(tmp_path, change, message):
    fields = Layer(4).gptq()
    change(fields)
    source = save(tmp_path / "m.safetensors", {"q": fields})
    assert message in pack(source, "--from", "gptq", "-o", tmp_path / "m.blw", code=1).stderr
    assert not (tmp_path / "m.blw").exists()


def test_mistakes_in_the_command_line(tmp_path):
    source, output = save(tmp_path / "m.safetensors", {"q": Layer(4).gptq()}), tmp_path / "m.blw"
    said = pack(source, "-o", output, code=1).stderr
    assert "tensor q.qweight is of a layer that was quantised already: expected --from gptq, gptq_v2 or awq" in said
    assert "unknown checkpoint 'gptp'" in pack(source, "--from", "gptp", "-o", output, code=2).stderr
    said = pack(source, "--from", "gptq", "--bits", 4, "-o", output, code=2).stderr
    assert "expected --from or --bits, got both: the layers say how they are quantised" in said
    assert "unknown field g_idx" in pack(source, "--from", "awq", "-o", output, code=1).stderr
    plain = save(tmp_path / "p.safetensors", {}, w=torch.ones(3, 4))
    assert "expected a layer of awq to pack" in pack(plain, "--from", "awq", "-o", output, code=1).stderr
    save(tmp_path / "m.safetensors", {"q": Layer(4, n=96).gptq() | {"g_idx": torch.zeros(192, dtype=torch.int32)}})
    assert "got column 64 in group 0 (desc_act)" in pack(source, "--from", "gptq", "-o", output, code=1).stderr
    assert not output.exists()
