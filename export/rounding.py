"""Weights that lie in a file as 16-bit floats and are widened as a session opens: half the size, computed in fp32.

In memory they take what fp32 takes: what is widened is not mapped from the file.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from sundae_rt.errors import InputError
from sundae_rt.training.vqgan.model import VQGAN

WORTH_A_CAST = 1024
"""Bytes from which on a tensor is stored in 16 bits."""


def rounded(model: nn.Module) -> nn.Module:
    """A copy of a prior or a VQ-GAN in fp32 whose weights fp16 holds exactly: each is the nearest such number.

    Left as they are: tensors that are too small to be stored so, and a codebook that is put on the unit sphere, for
    what comes of that no half would hold.

    Raises:
        InputError: a weight that is too large for fp16.
    """
    model, largest = copy.deepcopy(model), torch.finfo(torch.float16).max
    on_sphere = isinstance(model, VQGAN) and model.config.unit_norm
    for name, tensor in model.state_dict().items():
        is_kept = tensor.nbytes < WORTH_A_CAST or (on_sphere and name.startswith("quantize."))
        if tensor.is_floating_point() and not is_kept:
            if not bool((tensor.abs() <= largest).all()):
                raise InputError(f"{name} does not fit into fp16, which ends at {largest:g}: leave out --half-weights")
            tensor.copy_(tensor.half())
    return model


def store_halves(model: ir.Model) -> None:
    """Stores each fp32 tensor that fp16 holds exactly as fp16, with a cast behind it. Every backend folds the cast.

    Args:
        model: changed in place.
    """
    casts = []
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < WORTH_A_CAST:
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
