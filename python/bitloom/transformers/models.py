"""The models that bitloom knows, and which forms each is made of."""

from dataclasses import dataclass

from .forms import (
    Form,
    expert_gate,
    experts,
    head_capped,
    head_experts,
    head_plain,
    head_scaled,
    mlp_gated,
    mlp_packed,
    rms_gemma,
    rms_llama,
    rms_olmo,
    rope_half,
    rope_interleaved,
    rope_partial,
    rope_wide,
)


@dataclass(frozen=True)
class Model:
    """name: of transformers.models' folder. prefix: of its classes. gate: the option's name for its gated activation.
    types: the config.model_type values of its text models, name itself where empty.
    """

    name: str
    prefix: str
    rms_norm: Form
    mlp: tuple[Form, ...]
    rope: Form
    head: Form
    gate: str = "swiglu"
    types: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return f"transformers.models.{self.name}.modeling_{self.name}"

    @property
    def options(self) -> dict[str, tuple[Form, ...]]:
        """What apply_bitloom_to_<name> takes, and what each option replaces."""
        return {
            "rope": (self.rope,),
            self.gate: self.mlp,
            "rms_norm": (self.rms_norm,),
            "fused_linear_cross_entropy": (self.head,),
        }


MODELS = {
    model.name: model
    for model in (
        Model("llama", "Llama", rms_llama, (mlp_gated,), rope_half, head_plain),
        Model("mistral", "Mistral", rms_llama, (mlp_gated,), rope_half, head_plain),
        Model("mixtral", "Mixtral", rms_llama, (expert_gate, experts), rope_half, head_experts),
        Model("qwen2", "Qwen2", rms_llama, (mlp_gated,), rope_half, head_plain),
        Model("qwen3", "Qwen3", rms_llama, (mlp_gated,), rope_half, head_plain),
        Model("gemma", "Gemma", rms_gemma, (mlp_gated,), rope_half, head_plain, "geglu"),
        Model("gemma2", "Gemma2", rms_gemma, (mlp_gated,), rope_half, head_capped, "geglu"),
        Model("gemma3", "Gemma3", rms_gemma, (mlp_gated,), rope_half, head_capped, "geglu", ("gemma3_text",)),
        Model("phi3", "Phi3", rms_llama, (mlp_packed,), rope_partial, head_plain),
        Model("olmo2", "Olmo2", rms_olmo, (mlp_gated,), rope_wide, head_plain),
        Model("granite", "Granite", rms_llama, (mlp_gated,), rope_half, head_scaled),
        Model("glm4", "Glm4", rms_llama, (mlp_packed,), rope_interleaved, head_plain),
    )
}
