"""vector_add in float64 (integers as they are), and as torch computes it."""


def vector_add(x, y, **_):
    return x + y


def vector_add_torch(x, y, **_):
    return x + y
