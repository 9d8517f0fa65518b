"""Products with weights of 1 to 8 bits, spelled as BitBLAS spells them.

>>> config = bitloom.MatmulConfig(M=1, N=4096, K=4096, A_dtype="float16", W_dtype="int4")
>>> matmul = bitloom.Matmul(config)
>>> weight = matmul.transform_weight(integers)
>>> y = matmul(x, weight)

``Linear`` is the layer, ``quantize`` makes a float weight one of few bits. All of them need torch.
"""

from .config import MatmulConfig
from .formats import WeightFormat, weight_format
from .grouped import GroupedMatmul
from .linear import Linear
from .matmul import Matmul, auto_detect_nvidia_target
from .quantizers import ErrorReport, Quantized, quantize

__all__ = [
    "ErrorReport",
    "GroupedMatmul",
    "Linear",
    "Matmul",
    "MatmulConfig",
    "Quantized",
    "WeightFormat",
    "auto_detect_nvidia_target",
    "quantize",
    "weight_format",
]
