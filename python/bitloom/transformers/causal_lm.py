"""A causal language model's forward whose loss comes from the hidden states, without logits."""

import functools
import inspect
import sys
from collections.abc import Callable

import torch
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast, MoeCausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

import bitloom
from bitloom.torch import functional


def check_head(model) -> None:
    """Raises UserError where something of a model keeps the loss from being fused with its head."""
    got = None
    if type(model.lm_head) is not torch.nn.Linear:
        got = f"lm_head of type {type(model.lm_head).__module__}.{type(model.lm_head).__name__}"
    elif model.loss_function is not ForCausalLMLoss:
        got = "a loss function of the model's own"
    if got:
        raise bitloom.UserError(
            f"fused_linear_cross_entropy of {type(model).__name__}: expected lm_head of type torch.nn.Linear and "
            f"transformers' loss for causal language models, got {got}: leave it out when applying "
            "(fused_linear_cross_entropy=False)"
        )


def loss_of(model, hidden, labels, arguments, softcap=0.0):
    """ForCausalLMLoss of the logits that the head would give, with the same keyword arguments."""
    ignore = arguments.get("ignore_index", -100)
    shifted = arguments.get("shift_labels")
    if shifted is None:
        shifted = torch.nn.functional.pad(labels, (0, 1), value=ignore)[..., 1:]
    items = arguments.get("num_items_in_batch")
    loss = functional.fused_linear_cross_entropy(
        hidden.flatten(0, -2),
        model.lm_head.weight,
        shifted.flatten().to(hidden.device),
        model.lm_head.bias,
        ignore_index=ignore,
        softcap=softcap,
        reduction="mean" if items is None else "sum",
    )
    if items is None:
        return loss
    return loss / (items.to(loss.device) if torch.is_tensor(items) else items)


def causal_lm(*, softcap: bool = False, scaled: bool = False, routed: bool = False) -> Callable:
    """Makes the forward of a model from transformers' own.

    In training, with labels, the output has no logits; in every other case the original runs. softcap: logits are
    capped by config.final_logit_softcapping. scaled: they are divided by config.logits_scaling. routed: a mixture of
    experts, whose balancing loss is added.
    """

    def replacement(original):
        names = list(inspect.signature(original).parameters)[1:-1]

        @can_return_tuple
        @functools.wraps(original)
        def forward(self, *args, **kwargs):
            kwargs.update(zip(names, args))
            labels, kept = kwargs.get("labels"), kwargs.get("logits_to_keep", 0)
            if labels is None or not self.training or not isinstance(kept, int) or kept:
                return original(self, **kwargs)
            check_head(self)
            kwargs.pop("labels"), kwargs.pop("logits_to_keep", None)
            if routed:
                router = kwargs.pop("output_router_logits", None)
                kwargs["output_router_logits"] = self.config.output_router_logits if router is None else router
            outputs = self.model(**kwargs)
            hidden = outputs.last_hidden_state
            if scaled:
                hidden = hidden / self.config.logits_scaling
            cap = self.config.final_logit_softcapping if softcap else None
            loss = loss_of(self, hidden, labels, kwargs, cap or 0.0)
            given = {name: getattr(outputs, name) for name in ("past_key_values", "hidden_states", "attentions")}
            if not routed:
                return CausalLMOutputWithPast(loss=loss, **given)
            balance = None
            if kwargs["output_router_logits"]:
                balancing = sys.modules[type(self).__module__].load_balancing_loss_func
                mask = kwargs.get("attention_mask")
                balance = balancing(outputs.router_logits, self.num_experts, self.num_experts_per_tok, mask)
                loss = loss + self.router_aux_loss_coef * balance.to(loss.device)
            return MoeCausalLMOutputWithPast(loss=loss, aux_loss=balance, router_logits=outputs.router_logits, **given)

        return forward

    return replacement
