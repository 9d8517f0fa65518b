"""The cross entropy of a linear layer whose classes lie on several devices."""

import torch
import torch.distributed as dist
from torch import Tensor

from .by_classes import by_classes
from .checks import check_range, check_shapes
from .losses import check_cross_entropy
from .shapes import as_type_of


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
) -> Tensor:
    """fused_linear_cross_entropy where each process of a group holds the weight, and the bias, of its part of the
    classes: as many as the others, in the order of their ranks. input, target and class_weight are the same for all.

    Every process of the group calls it, and runs the backward. It gives each the same loss and the same gradient of the
    input, which is already summed over the group, and the gradient of its own part of the weight. Between processes go
    four numbers a row and the input's gradient. chunk_size: classes whose logits are there at once. group: the default
    group where it is left out. The rest is as for fused_linear_cross_entropy. There is no second derivative.
    """
    name, cap = "vocab_parallel_cross_entropy", 0.0 if softcap is None else softcap
    check_cross_entropy(name, label_smoothing, lse_square_scale, cap, reduction, class_weight, "class_weight")
    if chunk_size is not None:
        check_range(name, "chunk_size", chunk_size, 1)
    group = dist.group.WORLD if group is None else group
    here, classes = weight.shape[0], weight.shape[0] * dist.get_world_size(group)
    check_shapes(
        name,
        weight=(weight, (here, input.shape[-1])),
        target=(target, input.shape[:-1]),
        bias=(bias, (here,)),
        class_weight=(class_weight, (classes,)),
    )
    weight, bias = as_type_of(input, weight), as_type_of(input, bias)
    early = torch.is_grad_enabled() and reduction != "none"
    wanted = [early and x is not None and x.requires_grad for x in (input, weight, bias)]
    numbers = ignore_index, float(label_smoothing), float(lse_square_scale), float(cap), reduction, token_scaling
    place = dist.get_rank(group) * here, classes, group.group_name
    return by_classes(input, weight, target, bias, class_weight, numbers, chunk_size, wanted, *place)[0]
