"""Loading a model that runs on bitloom's kernels."""

from transformers import AutoModelForCausalLM

from .models import MODELS
from .patch import apply_bitloom

_OPTIONS = {option for model in MODELS.values() for option in model.options}


class AutoBitloomForCausalLM:
    """transformers' AutoModelForCausalLM with ``apply_bitloom`` on the model that it makes.

    Options of apply_bitloom_to_<model> may stand among the keyword arguments; the others go to transformers. Raises
    UserError for a model that bitloom does not know.
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("AutoBitloomForCausalLM is made by from_pretrained() or from_config()")

    @staticmethod
    def _make(make, arguments, keywords):
        options = {name: keywords.pop(name) for name in list(keywords) if name in _OPTIONS}
        model = make(*arguments, **keywords)
        apply_bitloom(model, **options)
        return model

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As AutoModelForCausalLM.from_pretrained."""
        return cls._make(AutoModelForCausalLM.from_pretrained, args, kwargs)

    @classmethod
    def from_config(cls, *args, **kwargs):
        """As AutoModelForCausalLM.from_config."""
        return cls._make(AutoModelForCausalLM.from_config, args, kwargs)
