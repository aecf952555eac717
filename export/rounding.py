"""Weights that lie in a file as 16-bit floats and are widened as a session opens: half the size, computed in fp32."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from sundae_rt.errors import InputError
from sundae_rt.export.checks import Tolerance

ROUNDED = Tolerance(logits=0, proposals=0, pixels=4, codes=0.98)
"""How far a VQ-GAN's graphs with rounded weights may be from the model."""


def rounded(model: nn.Module) -> nn.Module:
    """A copy of a model in fp32 whose weights fp16 holds exactly: each is the nearest such number.

    Raises:
        InputError: a weight that is too large for fp16.
    """
    model, largest = copy.deepcopy(model), torch.finfo(torch.float16).max
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            if not bool((tensor.abs() <= largest).all()):
                raise InputError(f"{name} does not fit into fp16, which ends at {largest:g}: leave out --half-weights")
            tensor.copy_(tensor.half())
    return model


def store_halves(model: ir.Model, smallest: int) -> None:
    """Stores each fp32 tensor that fp16 holds exactly as fp16, with a cast behind it. Every backend folds the cast.

    Args:
        model: changed in place.
        smallest: bytes from which on a tensor is worth a cast.
    """
    casts = []
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < smallest:
            continue
        values = tensor.numpy()
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves, values):
            continue
        name = f"{value.name}/half"
        stored = ir.val(name, const_value=ir.tensor(halves, name=name))
        model.graph.register_initializer(stored)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{value.name}/wide")
        cast.outputs[0].type, cast.outputs[0].shape = value.type, value.shape
        value.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[value.name]
        cast.outputs[0].name = value.name
        casts.append(cast)
    model.graph.insert_before(model.graph[0], casts)
