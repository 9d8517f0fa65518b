"""vocab_parallel_cross_entropy over two processes, on the CPU or on a GPU each, against the whole on one."""

import bitloom
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from bitloom.torch import functional as F

ROWS, HIDDEN, CLASSES, PROCESSES = 17, 24, 34, 2
CASES = {
    "mean": {"chunk_size": 5},
    "sum": {"reduction": "sum", "softcap": 2.0},
    "none": {"reduction": "none", "lse_square_scale": 0.01},
    "all": {"label_smoothing": 0.1, "softcap": 3.0, "token_scaling": True, "weighted": True, "chunk_size": 7},
}


def made(device):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(ROWS, HIDDEN, generator=generator), torch.randn(CLASSES, HIDDEN, generator=generator)
    bias, class_weight = torch.randn(CLASSES, generator=generator), torch.rand(CLASSES, generator=generator) + 0.5
    target = torch.randint(CLASSES, (ROWS,), generator=generator)
    target[[3, 9]] = -100
    parameters = [t.to(device).requires_grad_() for t in (x, weight, bias)]
    return parameters, target.to(device), class_weight.to(device)


def results(function, options, rows=slice(None), device="cpu"):
    """The loss and the gradients by the input and by the rows of weight and bias."""
    options = dict(options)
    (x, weight, bias), target, class_weight = made(device)
    parts = [x, weight.detach()[rows].requires_grad_(), bias.detach()[rows].requires_grad_()]
    class_weight = class_weight if options.pop("weighted", False) else None
    loss = function(parts[0], parts[1], target, parts[2], class_weight, **options)
    outer = (torch.linspace(0.5, 2, ROWS) if loss.dim() else torch.tensor(1.5)).to(device)
    first = torch.autograd.grad(loss, parts, outer, retain_graph=True)
    second = torch.autograd.grad(loss, parts, outer)  # computed again
    return [tensor.cpu() for tensor in (loss.detach(), *first, *second)]


def told(function, rows=slice(None), device="cpu"):
    """What else there is to tell. Each class of the first half has one of the second half's logits."""
    (x, weight, _), target, _ = made(device)
    weight = weight.detach()[: CLASSES // 2].repeat(2, 1)[rows]
    options = {"lse_square_scale": 0.01, "return_token_accuracy": True, "return_predicted_tokens": True}
    result = function(x.detach(), weight, target % (CLASSES // 2), return_z_loss=True, chunk_size=5, **options)
    return [tensor.cpu() for tensor in result]


def work(rank, backend, store, folder):
    torch.set_num_threads(1)
    device = "cpu" if backend == "gloo" else f"cuda:{rank}"
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    here = CLASSES // PROCESSES
    rows = slice(rank * here, (rank + 1) * here)
    done = {name: results(F.vocab_parallel_cross_entropy, options, rows, device) for name, options in CASES.items()}
    compiled = torch.compile(F.vocab_parallel_cross_entropy, fullgraph=True, backend="aot_eager")
    done["compiled"] = results(compiled, CASES["mean"], rows, device)
    with pytest.raises(bitloom.UserError, match=r"argument class_weight: expected shape \(34,\), got \(17,\)"):
        F.vocab_parallel_cross_entropy(torch.ones(3, 5), torch.ones(17, 5), torch.arange(3), None, torch.ones(17))
    parts = slice(0, 21) if rank == 0 else slice(21, CLASSES)  # of sizes that differ
    place = {"first": parts.start, "classes": CLASSES}
    done["uneven"] = results(F.vocab_parallel_cross_entropy, CASES["all"] | place, parts, device)
    if backend == "gloo":
        with pytest.raises(bitloom.UserError, match="argument weight: expected parts of all classes together, got oth"):
            results(F.vocab_parallel_cross_entropy, {}, parts)
    with pytest.raises(bitloom.UserError, match=r"argument first: expected 0 to 17 \(34 classes, of which 17 are here"):
        F.vocab_parallel_cross_entropy(torch.ones(3, 5), torch.ones(17, 5), torch.arange(3), first=18, classes=34)
    done["told"] = told(F.vocab_parallel_cross_entropy, rows, device)
    torch.save(done, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_as_on_one_process(backend, tmp_path):
    if backend == "nccl" and torch.cuda.device_count() < PROCESSES:
        pytest.skip("no two CUDA devices")
    mp.spawn(work, (backend, tmp_path / "store", tmp_path), nprocs=PROCESSES)
    done = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    expected = told(F.fused_linear_cross_entropy)
    assert (expected[3] < CLASSES // 2).all()
    for ours in done:
        torch.testing.assert_close(ours["told"], expected)
    for name, options in (CASES | {"compiled": CASES["mean"], "uneven": CASES["all"]}).items():
        options = {key: value for key, value in options.items() if key != "chunk_size"}
        loss, *gradients = results(F.fused_linear_cross_entropy, options)
        for ours in done:
            torch.testing.assert_close(ours[name][0], loss)
        for i, expected in enumerate(gradients, 1):
            # The input's gradient is whole everywhere; those of weight and bias are parts.
            found = [ours[name][i] for ours in done]
            whole = found if i % 3 == 1 else [torch.cat(found)]
            for mine in whole:
                torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
