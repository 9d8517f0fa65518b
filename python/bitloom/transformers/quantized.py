"""Models of transformers with low-bit weights."""

from torch import nn

from bitloom import UserError
from bitloom.low_bit import ErrorReport, Linear
from bitloom.low_bit import quantize as quantize_weight
from bitloom.low_bit.config import DTYPES, FLOATS

NAMES = {DTYPES[name]: name for name in FLOATS}


def quantize(
    model: nn.Module,
    bits: int = 4,
    group_size: int = 128,
    *,
    W_dtype: str | None = None,
    method: str = "minmax",
    skip: str | tuple[str, ...] = (),
) -> dict[str, ErrorReport]:
    """Puts a bitloom.Linear in the place of every linear layer of a model, in the model itself.

    bits: 1 to 8. group_size: columns of a weight that share a scale and a zero point; -1 for whole rows. W_dtype:
    another format than uint<bits>, as MatmulConfig names them, perhaps with a group size of its own. method: of
    bitloom.quantize. skip: layers whose names hold it, or one of several, stay as they are: skip=("lm_head",).
    Activations keep their type, gradients flow through the layers but not to their weights.
    Returns by name what each layer's weight lost. UserError, and nothing is changed: no layer, one of a class
    derived from torch.nn.Linear, or one that cannot be quantised so.
    """
    wanted, skip = W_dtype or f"uint{bits}", (skip,) if isinstance(skip, str) else skip
    found = {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Linear) and not any(part in name for part in skip)
    }
    if "" in found:
        raise UserError(
            f"quantize: argument model: expected a model with linear layers in it, got a {type(model).__name__}"
        )
    if not found:
        raise UserError("quantize: argument model: expected a linear layer in it, got none")
    done = {}  # of each layer, which may have several names
    for name, layer in found.items():
        try:
            if layer not in done:
                done[layer] = _quantized(layer, wanted, group_size, method)
        except UserError as error:
            raise UserError(f"layer {name}: {error}") from error
    made = {name: done[layer][0] for name, layer in found.items()}
    reports = {name: done[layer][1] for name, layer in found.items()}
    for name, layer in made.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer)
    return reports


def _quantized(layer: nn.Linear, W_dtype: str, group_size: int, method: str) -> tuple[Linear, ErrorReport]:
    if type(layer) is not nn.Linear:  # which may compute something else, or be read by others
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        raise UserError(f"expected a torch.nn.Linear, got a {kind}, which skip can leave as it is")
    weight = layer.weight.detach()
    if weight.dtype not in NAMES:
        raise UserError(f"expected a weight of {', '.join(NAMES.values())}, got {weight.dtype}")
    dtype = NAMES[weight.dtype]
    found = quantize_weight(weight, W_dtype, group_size, method)
    linear = Linear(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        A_dtype=dtype,
        W_dtype=W_dtype,
        accum_dtype="float32",
        out_dtype=dtype,
        group_size=found.group_size,
        with_scaling=True,
        with_zeros=found.zeros is not None,
        opt_M=None,
        target=weight.device.type,
    )
    linear.to(weight.device).train(layer.training)
    linear.load_and_transform_weight(found.codes, found.scale, found.zeros, layer.bias)
    return linear, found.report
