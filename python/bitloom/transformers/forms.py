"""What of transformers' models is replaced, and by what.

A form is one way in which models write a step. It knows the source of what it replaces by a fingerprint, so that a
release that computes something else is an error rather than another result.
"""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.activations import ACT2FN

import bitloom
from bitloom.torch import functional

from .causal_lm import causal_lm, check_head


@dataclass(frozen=True)
class Form:
    """sources: what the form must find, and the fingerprints of which it knows that they compute the same. The first is
    what is replaced, the others what that calls. "RMSNorm.forward" is the method of the model's class of that ending, a
    name alone a function of the model's module, "module:name" one of another module. replacement: makes the new
    function from the old one. check: raises UserError for a module that the new function cannot run on.
    """

    sources: dict[str, tuple[str, ...]]
    replacement: Callable[[Callable], Callable]
    check: Callable[[object], None] = lambda module: None

    @property
    def target(self) -> str:
        return next(iter(self.sources))


class _Bare(ast.NodeTransformer):
    """Leaves out what does not change what a function computes: annotations, decorators, docstrings."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        return ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else None

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.returns, node.decorator_list = None, []
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        return node


def original_of(function: Callable) -> Callable:
    """The function beneath transformers' decorators."""
    return inspect.unwrap(function)


@functools.cache
def fingerprint(function: Callable) -> str:
    """Of a function's source; "" where it has none."""
    try:
        source = textwrap.dedent(inspect.getsource(original_of(function)))
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(ast.unparse(_Bare().visit(ast.parse(source))).encode()).hexdigest()[:12]


def _rms_norm(eps: str, offset: float, casting: str) -> Callable:
    def replacement(original):
        def forward(self, hidden_states):
            return functional.rms_norm(hidden_states, self.weight, getattr(self, eps), offset, casting)

        return forward

    return replacement


_gates = {
    type(ACT2FN["silu"]): functional.swiglu,
    type(ACT2FN["swish"]): functional.swiglu,
    type(ACT2FN["gelu"]): functools.partial(functional.geglu, approximate="none"),
    type(ACT2FN["gelu_new"]): functional.geglu,
    type(ACT2FN["gelu_pytorch_tanh"]): functional.geglu,
}


def gate_of(activation) -> Callable:
    """The gate, of two tensors or of one that holds both, for a module of transformers' activations."""
    gate = _gates.get(type(activation))
    if gate is None:
        raise bitloom.UserError(
            f"bitloom.transformers: expected activation silu, gelu or gelu_pytorch_tanh, got {activation}: "
            "leave the gate out when applying (swiglu=False, geglu=False)"
        )
    return gate


def _gated_mlp(original):
    def forward(self, x):
        return self.down_proj(gate_of(self.act_fn)(self.gate_proj(x), self.up_proj(x)))

    return forward


def _packed_mlp(original):
    def forward(self, hidden_states):
        return self.down_proj(gate_of(self.activation_fn)(self.gate_up_proj(hidden_states)))

    return forward


def _expert_gate(original):
    def _apply_gate(self, gate_up_out):
        return gate_of(self.act_fn)(gate_up_out)

    return _apply_gate


def _experts(original):
    """The road that calls no _apply_gate (experts_implementation="eager") goes expert by expert."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    def eager(self, hidden_states, top_k_index, top_k_weights):
        out = torch.zeros_like(hidden_states)
        mask = torch.nn.functional.one_hot(top_k_index, num_classes=self.num_experts + 1).permute(2, 1, 0)
        for expert in mask[: self.num_experts].sum(dim=(-1, -2)).nonzero()[:, 0]:
            choice, token = torch.where(mask[expert])
            hidden = torch.nn.functional.linear(hidden_states[token], self.gate_up_proj[expert])
            result = torch.nn.functional.linear(gate_of(self.act_fn)(hidden), self.down_proj[expert])
            result = result * top_k_weights[token, choice, None]
            out.index_add_(0, token, result.to(out.dtype))
        return out

    def forward(self, *args, **kwargs):
        return ALL_EXPERTS_FUNCTIONS.get_interface(self.config._experts_implementation, eager)(self, *args, **kwargs)

    return forward


def _rope(interleaved: bool) -> Callable:
    def replacement(original):
        def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
            if unsqueeze_dim == 1:
                return functional.rope(q, k, cos, sin, interleaved)
            q, k = functional.rope(q.transpose(1, 2), k.transpose(1, 2), cos, sin, interleaved)
            return q.transpose(1, 2), k.transpose(1, 2)

        return apply_rotary_pos_emb

    return replacement


rms_llama = Form({"RMSNorm.forward": ("9635bcd843f3",)}, _rms_norm("variance_epsilon", 0.0, "llama"))
rms_olmo = Form({"RMSNorm.forward": ("eef4e978a32a",)}, _rms_norm("variance_epsilon", 0.0, "gemma"))
rms_gemma = Form(
    {"RMSNorm.forward": ("2dad5f576075",), "RMSNorm._norm": ("6dc7d2ba16b4",)}, _rms_norm("eps", 1.0, "gemma")
)

mlp_gated = Form({"MLP.forward": ("7d2027d4464e",)}, _gated_mlp, lambda mlp: gate_of(mlp.act_fn))
mlp_packed = Form({"MLP.forward": ("e8d404cbecb9",)}, _packed_mlp, lambda mlp: gate_of(mlp.activation_fn))
expert_gate = Form({"Experts._apply_gate": ("82821f94b286",)}, _expert_gate)
experts = Form({"Experts.forward": ("d52dc7c02b15", "e7aef0c2abf5")}, _experts)

rope_half = Form({"apply_rotary_pos_emb": ("4a8f8b85ee37",), "rotate_half": ("7b6c9b425ca0",)}, _rope(False))
rope_partial = Form({"apply_rotary_pos_emb": ("9af4c6b9d146",), "rotate_half": ("7b6c9b425ca0",)}, _rope(False))
rope_wide = Form({"apply_rotary_pos_emb": ("92ec8cff28b4",), "rotate_half": ("7b6c9b425ca0",)}, _rope(False))
rope_interleaved = Form({"apply_rotary_pos_emb": ("2cba81d929fd",), "rotate_half": ("a28ab7df6285",)}, _rope(True))

_loss = {
    "transformers.loss.loss_utils:ForCausalLMLoss": ("0637640fcbd0",),
    "transformers.loss.loss_utils:fixed_cross_entropy": ("7c2fdd59ca33",),
}


def _head(*fingerprints: str, **options: bool) -> Form:
    return Form({"ForCausalLM.forward": fingerprints} | _loss, causal_lm(**options), check_head)


head_plain = _head("627f5362ed52", "047ce9e0fa49", "1f36a1e3bb2d")
head_capped = _head("daebe9917c1e", "584fe0897b1d", "b39e4a6f91b9", softcap=True)
head_scaled = _head("2b6ccf50018a", "433d6ce59b59", scaled=True)
head_experts = _head("0a30f81a9124", "64aaa8e31a8a", "58068b25b553", routed=True)
