"""What the loss kernels do with targets that are no column, with rows that do not count, and over their own logits."""

import bitloom
import pytest
import torch
import torch.nn.functional as F

TARGETS = ["host", "x86-64", "interpreter"]
SIZES = [(1, 17), (17, 199), (3, 4097), (2, 40000)]


def logits_of(rows, cols, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows * cols)
    logits = torch.randn(rows, cols, generator=generator).to(dtype)
    return logits, torch.randint(0, cols, (rows,), generator=generator)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_outside_the_columns_is_flagged(target):
    logits, y = logits_of(17, 199)
    y[3], y[11], y[13] = 199, -1, -100
    error = torch.zeros(1, dtype=torch.int32)
    with bitloom.use_target(target):
        loss, gradient = torch.empty(17), torch.empty_like(logits)
        bitloom.cross_entropy(logits, y, loss=loss, dlogits=gradient, error=error)
    assert error.item() == 12
    assert loss.isnan().nonzero().flatten().tolist() == [3, 11]
    assert loss[13] == 0 and (gradient[[3, 11, 13]] == 0).all() and (gradient[[0, 16]] != 0).any(1).all()


@pytest.mark.parametrize("target", TARGETS)
def test_good_targets_leave_the_error_alone(target):
    logits, y = logits_of(3, 17)
    y[1] = -100
    error = torch.zeros(1, dtype=torch.int32)
    with bitloom.use_target(target):
        bitloom.cross_entropy(logits, y, error=error)
    assert error.item() == 0


@pytest.mark.parametrize("ignored", [0, 5, 198])
def test_an_ignored_class(ignored):
    logits, y = logits_of(17, 199)
    y[2] = y[9] = ignored
    loss, gradient = torch.empty(17), torch.empty_like(logits)
    bitloom.cross_entropy(logits, y, ignore_index=ignored, label_smoothing=0.25, loss=loss, dlogits=gradient)
    wanted = logits.double().requires_grad_()
    losses = F.cross_entropy(wanted, y, ignore_index=ignored, label_smoothing=0.25, reduction="none")
    losses.sum().backward()
    torch.testing.assert_close(loss.double(), losses.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), wanted.grad, atol=1e-6, rtol=1e-5)


def test_no_row_counts():
    logits, y = logits_of(3, 199)
    y.fill_(-100)
    loss, gradient = torch.full((3,), 7.0), torch.full_like(logits, 7.0)
    bitloom.cross_entropy(logits, y, loss=loss, dlogits=gradient)
    assert (loss == 0).all() and (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows, cols", SIZES)
def test_the_gradient_may_take_the_logits_place(rows, cols, dtype):
    logits, y = logits_of(rows, cols, dtype)
    options = {"label_smoothing": 0.1, "softcap": 5.0, "lse_square_scale": 1e-3}
    beside, loss = bitloom.cross_entropy(logits, y, with_gradient=True, **options)
    over, again = bitloom.cross_entropy(logits, y, dlogits=logits, **options)
    assert over is logits and torch.equal(over, beside) and torch.equal(loss, again)


def test_rows_of_262144_columns():
    logits, y = logits_of(2, 262144)
    logits[0, 262143], logits[1, 17] = 30.0, 50.0
    loss, gradient, predicted = torch.empty(2), torch.empty_like(logits), torch.empty(2, dtype=torch.int64)
    bitloom.cross_entropy(logits, y, loss=loss, dlogits=gradient, predicted=predicted)
    wanted = logits.double().requires_grad_()
    losses = F.cross_entropy(wanted, y, reduction="none")
    losses.sum().backward()
    torch.testing.assert_close(loss.double(), losses.detach(), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted.grad, atol=1e-6, rtol=1e-4)
    assert predicted.tolist() == [262143, 17]


def test_of_equal_logits_the_first_is_predicted():
    logits = torch.zeros(2, 40000)
    logits[0, [7, 20000, 39999]] = 3.0
    logits[1, [33000, 16385]] = 1.0
    predicted, correct = torch.empty(2, dtype=torch.int64), torch.empty(2, dtype=torch.bool)
    bitloom.cross_entropy(logits, torch.tensor([7, 33000]), predicted=predicted, correct=correct)
    assert predicted.tolist() == [7, 16385] and correct.tolist() == [True, False]


@pytest.mark.parametrize("large", [1e4, -1e4])
def test_large_logits_do_not_overflow(large):
    logits, y = logits_of(3, 199)
    loss = bitloom.cross_entropy(logits + large, y)
    torch.testing.assert_close(loss, F.cross_entropy(logits + large, y, reduction="none"), atol=1e-2, rtol=1e-3)


def test_rows_whose_scale_is_one_are_not_touched():
    x = torch.randn(3, 199)
    x[1] = float("nan")  # would be -nan, or another nan, after a product
    bits = x[1].view(torch.int32).clone()
    doubled = x[2] * 2
    bitloom.scale_rows(torch.tensor([1.0, 1.0, 2.0]), x=x)
    assert torch.equal(x[1].view(torch.int32), bits) and torch.equal(x[2], doubled)
