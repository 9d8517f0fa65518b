"""The cross entropy of a linear layer whose classes lie on several devices."""

import torch.distributed as dist
from torch import Tensor

import bitloom

from .by_classes import by_classes
from .linear_loss import prepared
from .losses import CrossEntropyOutput, output_of


def vocab_parallel_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    *,
    token_scaling: bool = False,
    chunk_size: int | None = None,
    group: dist.ProcessGroup | None = None,
    first: int | None = None,
    classes: int | None = None,
    return_z_loss: bool = False,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
) -> Tensor | CrossEntropyOutput:
    """fused_linear_cross_entropy where each process of a group holds the weight, and the bias, of its part of the
    classes: as many as the others, in the order of their ranks, or those from `first` on of `classes` in all, where
    both are given. input, target and class_weight are the same for all.

    Every process of the group calls it, and runs the backward. It gives each the same loss and the same gradient of the
    input, which is already summed over the group, and the gradient of its own part of the weight. Between processes go
    four numbers a row, two more where the accuracy or the predicted tokens are asked for, and the input's gradient.
    chunk_size: classes whose logits are there at once. group: the default group where it is left out. The rest is as
    for fused_linear_cross_entropy. There is no second derivative. Parts that are not all classes together are reported
    as targets are that are no class.
    """
    group = dist.group.WORLD if group is None else group
    here = weight.shape[0]
    if (first is None) != (classes is None):
        raise bitloom.UserError("vocab_parallel_cross_entropy: expected first and classes together, got one of them")
    if first is None:
        first, classes = dist.get_rank(group) * here, dist.get_world_size(group) * here
    elif not 0 <= first <= classes - here:
        raise bitloom.UserError(
            f"vocab_parallel_cross_entropy: argument first: expected 0 to {classes - here} ({classes} classes, "
            f"of which {here} are here), got {first}"
        )
    tensors, numbers, wanted = prepared(
        "vocab_parallel_cross_entropy",
        *(input, weight, target, bias, class_weight, ignore_index, label_smoothing, lse_square_scale, softcap),
        *(reduction, token_scaling, chunk_size, classes),
    )
    asked = return_z_loss, return_token_accuracy, return_predicted_tokens
    place = first, classes, group.group_name
    return output_of(by_classes(tensors, numbers, chunk_size, wanted, asked, *place), asked)
