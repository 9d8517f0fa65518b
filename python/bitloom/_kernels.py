"""The kernels' functions, one for each row of the registry. Their types are in _kernels.pyi, which the build writes."""

from ._bitloom import _function, kernels

__all__ = []


def add(name):
    """Makes the function of a registered kernel and returns it."""
    function = globals()[name] = _function(kernels()[name])
    __all__.append(name)
    return function


for _name in kernels():
    add(_name)
