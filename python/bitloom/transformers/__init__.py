"""Models of transformers on bitloom's kernels.

>>> from bitloom.transformers import apply_bitloom_to_llama
>>> patch = apply_bitloom_to_llama()   # every Llama from now on
>>> patch.undo()

There is one such function a model, ``apply_bitloom(model)`` for one model of any known kind, and
``AutoBitloomForCausalLM``, which loads one. A model or a release of transformers that bitloom does not know is a
UserError, and nothing is changed. ``quantize(model)`` puts layers of low-bit weights in place of the linear ones.
"""

import transformers

try:
    from .auto import AutoBitloomForCausalLM
    from .models import MODELS
    from .patch import Patch, applier, apply_bitloom
    from .quantized import quantize
except ImportError as error:
    raise ImportError(
        f"bitloom.transformers: expected a transformers that it knows, got {transformers.__version__}: {error}"
    ) from error

__all__ = ["AutoBitloomForCausalLM", "Patch", "apply_bitloom", "quantize"]

for _model in MODELS.values():
    _function = applier(_model)
    _function.__module__ = __name__
    globals()[_function.__name__] = _function
    __all__.append(_function.__name__)
