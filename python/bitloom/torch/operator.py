"""How kernels become operators of PyTorch.

An operator is one row: its schema, what runs its kernels, its fake form, its backward. Everything else follows here.
``torch.ops.bitloom.<name>`` is what torch.compile, fake tensors and tensor subclasses see. Eager calls on plain tensors
take a shorter road to the same functions: the dispatcher's Python road costs several times what the kernels' launch
does.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

import bitloom
from bitloom._bitloom import _all_of, _function, kernels

library = torch.library.Library("bitloom", "DEF")

# What the short road takes; other kinds (fake tensors, DTensor, symbolic numbers) need the dispatcher.
_are_plain = _all_of((Tensor, torch.nn.Parameter, float, int, bool, str, list, type(None)))
_is_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack
is_transformed = torch._C._are_functorch_transforms_active  # whether a transform of torch.func looks on
_any_requires_grad = torch._C._any_requires_grad
_is_grad_enabled = torch.is_grad_enabled


def of_any_rank(name: str) -> Callable:
    """The kernel of that name, whose views of its highest rank take tensors of any: the first dimensions of those that
    have more count as one. Given its outputs, of x's shape, it needs no views of tensors, which cost as much as itself.
    """
    return _function(kernels()[name], any_rank=True)


def of_heads_first(name: str) -> Callable:
    """The kernel of that name, whose views of rank 4 take tensors with dimensions 1 and 2 in each other's place. A view
    that torch makes takes as long as the kernel's launch."""
    return _function(kernels()[name], middle_swapped=True)


def _is_plain(*arguments) -> bool:
    return not (
        _is_compiling() or not _are_plain(*arguments) or _modes() or is_transformed() or forward_ad._current_level >= 0
    )


def is_eager(*arguments) -> bool:
    """Whether a call is of plain values, a tensor first, with nobody who traces or intercepts it."""
    return _is_plain(*arguments) and not arguments[0].is_meta


def _is_dual(value) -> bool:
    """Whether it has a tangent, which the dispatcher would lose."""
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None


def _check_meta(name: str, op, arguments: tuple) -> None:
    """Among tensors without values, the dispatcher would take no notice of one that has some."""
    for argument, value in zip(op._schema.arguments, arguments):
        if isinstance(value, Tensor) and not value.is_meta:
            raise bitloom.UserError(
                f"{name}: argument {argument.name}: expected a tensor on meta, got one on {value.device}"
            )


def _filled(function: Callable) -> Callable:
    """The function with tensors without elements for the outputs that are None."""

    def run(*arguments):
        outputs = function(*arguments)
        if not isinstance(outputs, tuple):
            return outputs
        x = next(value for value in arguments if isinstance(value, Tensor))
        return tuple(x.new_empty(0) if value is None else value for value in outputs)

    return run


def constant(ctx, *outputs: Tensor | None) -> None:
    """In setup: these outputs have no gradients, and gradients that do not come are None rather than zeros."""
    ctx.mark_non_differentiable(*[value for value in outputs if value is not None])
    ctx.set_materialize_grads(False)


def keep(ctx, inputs: tuple) -> None:
    """In setup: saves all arguments, the tensors among them as autograd wants it."""
    ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.save_for_backward(*(inputs[i] for i in ctx.places))
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]


def arguments_of(ctx) -> list:
    """In the backward: what keep() saved."""
    arguments = list(ctx.others)
    for place, value in zip(ctx.places, ctx.saved_tensors):
        arguments[place] = value
    return arguments


def operator(
    schema: str,
    forward: Callable,
    fake: Callable,
    setup: Callable | None = None,
    backward: Callable | None = None,
) -> Callable:
    """Registers ``bitloom::<schema>`` and returns the function to call, with every argument by position.

    forward(*arguments) runs the kernels on CPU and CUDA tensors and gives outputs that share no memory with arguments.
    fake(*arguments) gives outputs of the same shapes, strides and types without values. Both give None for an output
    that nobody asked for; by way of the dispatcher, which wants tensors, it is one without elements.
    setup(ctx, inputs, output) keeps what backward(ctx, *gradients) needs, as in torch.autograd.Function; both are
    absent where the operator has no gradient. backward calls operators, so that it can be differentiated again.
    """
    library.define(schema)
    name = schema.partition("(")[0]
    for device in ("CPU", "CUDA"):
        library.impl(name, _filled(forward), device)
    torch.library.register_fake(f"bitloom::{name}", _filled(fake), lib=library)
    op = getattr(torch.ops.bitloom, name).default
    apply = None
    if backward:
        torch.library.register_autograd(f"bitloom::{name}", backward, setup_context=setup, lib=library)

        def run(ctx, *arguments):
            output = forward(*arguments)
            setup(ctx, arguments, output)
            return output

        function = type(name, (Function,), {"forward": staticmethod(run), "backward": staticmethod(backward)})
        # Without Function's own wrapper, which is for functorch's transforms.
        apply = super(Function, function).apply
        members = {"forward": op, "setup_context": setup, "backward": backward}
        transformed = type(
            name, (Function,), {"generate_vmap_rule": True} | {k: staticmethod(members[k]) for k in members}
        )

    def call(*arguments):
        if _is_plain(*arguments):
            try:
                if apply and _is_grad_enabled() and _any_requires_grad(*arguments):
                    return apply(*arguments)
                return forward(*arguments)
            except bitloom.UserError:  # asking each tensor beforehand takes longer
                if not arguments[0].is_meta:
                    raise
            _check_meta(name, op, arguments)
            return op(*arguments)
        if _is_compiling():
            return op(*arguments)
        if forward_ad._current_level >= 0 and any(map(_is_dual, arguments)):
            raise bitloom.UserError(f"{name}: expected no derivatives in forward mode, got a tensor with a tangent")
        if backward and is_transformed():  # torch.func's, which torch.library.register_autograd does not know
            return transformed.apply(*arguments)
        return op(*arguments)

    call.__name__ = call.__qualname__ = name
    return call


def formula_operator(schema: str, forward: Callable, fake: Callable, formula: Callable) -> Callable:
    """Registers an operator whose derivatives are those of formula(*arguments): the same in torch's own differentiable
    functions. Such are the operators that compute gradients: their derivatives are of second order, and rare."""

    name = schema.partition("(")[0]

    def setup(ctx, inputs, output):
        keep(ctx, inputs)
        ctx.set_materialize_grads(False)

    def backward(ctx, *outer):
        if is_transformed():
            raise bitloom.UserError(f"{name}: expected no derivatives of second order in transforms of torch.func")
        again = torch.is_grad_enabled()  # whether derivatives of the results are wanted too
        arguments = arguments_of(ctx)
        with torch.enable_grad():
            for i in ctx.places:
                value = arguments[i]
                # A view is a fresh variable: derivatives by it leave out ways on which arguments depend on each other.
                value = value.view_as(value) if again and value.requires_grad else value.detach()
                arguments[i] = value.requires_grad_() if value.is_floating_point() else value
            outputs = formula(*arguments)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [(y, dy) for y, dy in zip(outputs, outer) if dy is not None and y is not None and y.requires_grad]
            wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
            results = [None] * len(arguments)
            if pairs:
                values, grads = zip(*pairs)
                inputs = [arguments[i] for i in wanted]
                found = torch.autograd.grad(values, inputs, grads, create_graph=again, allow_unused=True)
                for i, value in zip(wanted, found):
                    results[i] = value
        return tuple(results)

    return operator(schema, forward, fake, setup, backward)


def gradients_of(function: Callable, outputs: int, by: tuple[int, ...]) -> Callable:
    """The formula of a gradient: takes the gradients of the function's `outputs` results (None where there is none) and
    then its arguments, and gives the gradients by those at the places `by`, None where such an argument is None."""

    def formula(*arguments):
        grads, arguments = arguments[:outputs], arguments[outputs:]
        results = function(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        values, grads = zip(*((y, dy) for y, dy in zip(results, grads) if dy is not None))
        inputs = [arguments[i] for i in by if arguments[i] is not None]
        found = iter(torch.autograd.grad(values, inputs, grads, create_graph=True, materialize_grads=True))
        return tuple(None if arguments[i] is None else next(found) for i in by)

    return formula
