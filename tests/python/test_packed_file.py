"""Files of packed weights from Python: written, mapped, and given to a kernel as they lie."""

import bitloom
import numpy as np
import pytest
import torch


def matrix(rows, columns, dtype=np.float32):
    return (np.random.default_rng(rows).standard_normal((rows, columns)) * 0.05).astype(dtype)


def test_a_kernel_takes_what_is_mapped(tmp_path):
    weight, x = matrix(17, 199), matrix(2, 199)
    path = tmp_path / "weights.blw"
    bitloom.write_packed(path, {"layer.weight": weight}, bits=4, group=32)
    file = bitloom.PackedFile(path)
    tensor = file["layer.weight"]
    assert tensor.shape == (17, 199) and tensor.group == 32 and not tensor.asymmetric and tensor.zeros is None
    packed, scales = np.asarray(tensor.weight), np.asarray(tensor.scales)
    assert not packed.flags.owndata and not packed.flags.writeable and packed.ctypes.data % 64 == 0
    fields = bitloom.unpack(packed.copy(), tensor.packing, signed=True)[:, :199].astype(np.float64)
    dequantised = fields * np.repeat(scales, 32, axis=1)[:, :199]
    assert np.abs(dequantised - weight).max() < 0.13 * np.abs(weight).max()
    del file, tensor  # the arrays keep the file mapped
    y = bitloom.low_bit_gemv(x, packed, scales, bits=4, group=32)
    np.testing.assert_allclose(y, x @ dequantised.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_a_product_takes_panels_as_they_are_mapped(tmp_path, bits):
    n, k, group = 199, 300, 32
    weight = torch.from_numpy(matrix(n, k))
    packing = bitloom.Packing.for_target("host", bits, 1)
    path = tmp_path / "weights.blw"
    bitloom.write_packed(path, {"a": weight}, group=group, scales="bf16", packing=packing)
    tensor = bitloom.PackedFile(path)["a"]
    packed, scales = (
        np.array(tensor.weight),
        torch.from_numpy(np.array(tensor.scales).view(np.int16)).view(torch.bfloat16),
    )
    panels, groups = -(-n // packing.rows), -(-k // group)
    assert packed.shape == (panels, packing.bytes_per_row(groups * group)) and scales.shape == (groups, n)
    x, x_scales, sums = bitloom.quantize_rows(torch.from_numpy(matrix(3, k)), group=group)
    sets = {"bits": bits, "group": group, "lanes": packing.lanes, "depth": packing.block, "rows": packing.rows}
    sets |= {"biased_fields": ("none", "low", "all").index(packing.bias)}
    got = bitloom.low_bit_matmul(x, torch.from_numpy(packed), scales, x_scales, x_sums=sums, **sets)
    fields = bitloom.unpack(packed, packing, signed=True).reshape(-1, groups * group)[:n].astype(np.float64)
    dequantised = fields * scales.float().numpy().repeat(group, axis=0).T
    activations = x.view(torch.int8).double().numpy() * x_scales.double().numpy()[:, None]
    np.testing.assert_allclose(got, activations @ dequantised.T, rtol=1e-4, atol=1e-4)
    if bits > 1:
        error = np.abs(dequantised[:, :k] - weight.numpy())
        assert (error <= 1.6 * np.abs(scales.float().numpy().repeat(group, axis=0).T[:, :k])).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_rows_packed_together_for_a_gpu(tmp_path, bits):
    weight = torch.from_numpy(matrix(17, 199))
    packing = bitloom.Packing.for_target("sm_90a", bits)
    for name, given in (("rows", {"packing": packing}), ("planar", {"bits": bits})):
        bitloom.write_packed(tmp_path / name, {"a": weight}, group=128, scales="f32", **given)
    together, alone = (bitloom.PackedFile(tmp_path / name)["a"] for name in ("rows", "planar"))
    assert np.asarray(together.weight).shape == (-(-17 // packing.rows), packing.bytes_per_row(256))
    fields = bitloom.unpack(np.array(together.weight), packing, signed=True)
    expected = bitloom.unpack(np.array(alone.weight), alone.packing, signed=True)
    np.testing.assert_array_equal(fields[:17, :199], expected[:, :199])
    assert not fields[17:].any() and not fields[:, 199:].any()
    np.testing.assert_array_equal(np.asarray(together.scales), np.asarray(alone.scales))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("scales", ["f32", "f16", "bf16"])
def test_every_width_and_type(tmp_path, bits, scales):
    torch.manual_seed(bits)
    weights = {"a": torch.randn(3, 48).half(), "b": torch.randn(5, 80).bfloat16(), "c": torch.randn(1, 7)}
    path = str(tmp_path / "weights.blw")
    bitloom.write_packed(path, weights, bits=bits, group=16, asymmetric=True, scales=scales, target="aarch64")
    file = bitloom.PackedFile(path, target="aarch64")
    file.verify()
    assert list(file) == file.keys() == ["a", "b", "c"] and len(file) == 3 and "a" in file and "d" not in file
    assert file.target == "aarch64"

    def floats(view):
        array = np.asarray(view)
        return (array.astype(np.uint32) << 16).view(np.float32) if scales == "bf16" else array.astype(np.float32)

    for name, given in weights.items():
        tensor = file[name]
        columns = given.shape[1]
        fields = bitloom.unpack(np.array(tensor.weight), tensor.packing).astype(np.float32)[:, :columns]
        spread = [np.repeat(floats(part), 16, axis=1)[:, :columns] for part in (tensor.scales, tensor.zeros)]
        error = np.abs(spread[0] * (fields - spread[1]) - given.float().numpy())
        if bits > 1:
            assert (error <= 1.02 * spread[0]).all()
        else:  # a sign, and the mean of the magnitudes
            assert ((fields == 1) == (given.float().numpy() > 0)).mean() > 0.99


def test_mistakes_are_named(tmp_path):
    path = str(tmp_path / "weights.blw")
    bitloom.write_packed(path, {"a": matrix(3, 48)}, group=16, target="x86")

    def says(message, call):
        with pytest.raises(bitloom.UserError) as caught:
            call()
        assert message in str(caught.value)

    says(f"{path}: expected weights packed for gpu, got some packed for x86", lambda: bitloom.PackedFile(path, "gpu"))
    says(f"{path}: unknown tensor 'b'", lambda: bitloom.PackedFile(path)["b"])
    says("expected a contiguous matrix on cpu, got f32[3]", lambda: bitloom.write_packed(path, {"a": matrix(1, 3)[0]}))
    says("tensor a: expected weights of f32, f16 or bf16", lambda: bitloom.write_packed(path, {"a": np.eye(3)}))
    says("expected scales of f32, f16 or bf16, got 'f23'", lambda: bitloom.write_packed(path, {}, scales="f23"))
    assert len(bitloom.PackedFile(path)) == 1  # what failed left it alone
    content = (tmp_path / "weights.blw").read_bytes()
    (tmp_path / "weights.blw").write_bytes(content[:-1])
    says(
        f"{path}: expected {len(content)} bytes, got {len(content) - 1}: it was cut off",
        lambda: bitloom.PackedFile(path),
    )
