"""What losses sum up, in float64 and as torch computes it."""

import numpy as np


def target_scale_inputs(generator, inputs):
    """Some targets are ignored; class weights are positive."""
    target = inputs["target"].remainder_(len(inputs.get("weight", range(8))))
    target[generator.random(len(target)) < 0.2] = -100
    if "weight" in inputs:
        inputs["weight"] = inputs["weight"].abs() + 0.1


def target_scale(target, ignore_index, weight=None, **_):
    counts = target != ignore_index
    total = counts.sum() if weight is None else weight[target[counts]].sum()
    return np.array([1 / total if total else 0.0])


def target_scale_torch(target, ignore_index, weight=None, **_):
    counts = target != ignore_index
    total = counts.sum().float() if weight is None else weight[target[counts]].sum()
    return (1 / total).nan_to_num(posinf=0).reshape(1)


target_weight_scale_inputs = target_scale_inputs


def target_weight_scale(target, ignore_index, weight, **_):
    return target_scale(target, ignore_index, weight)


def target_weight_scale_torch(target, ignore_index, weight, **_):
    return target_scale_torch(target, ignore_index, weight)


def sum_scaled(x, scale=1, **_):
    return np.array([x.sum()]) * scale


def sum_scaled_torch(x, scale=1, **_):
    return x.float().sum().reshape(1) * scale
