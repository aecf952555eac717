"""The precisions that a bundle's graphs come in: what each makes of a model, and how far it may then be from fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from sundae_rt.errors import InputError
from sundae_rt.export.half import halved


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a graph may be from the fp32 model in PyTorch.

    ``logits``: largest difference of a logit, as a share of the largest logit's size (or of 1, if that is larger);
    ``proposals``: smallest share of equal proposals, 0 where the figure is only kept: codes that are almost equally
    probable, as random weights make them, change with the last bit; ``pixels``: largest difference of a pixel, of 255:
    rounding may fall either way; ``codes``: smallest share of equal codes of a picture.
    """

    logits: float
    proposals: float
    pixels: int
    codes: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A precision.

    ``tolerance``: see :class:`Tolerance`; ``requires``: what a backend must provide to run it; ``prepare``: makes the
    module to export of a prior or a VQ-GAN; ``checkable``: makes of a graph one that ONNX Runtime runs on a CPU.
    """

    tolerance: Tolerance
    requires: tuple[str, ...] = ()
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model
    checkable: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with fp32 wherever it has bf16, which ONNX Runtime does not compute in on a CPU.

    Raises:
        InputError: its weights are outside it.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in (*graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise InputError("a model of this size cannot be checked in bf16: export fp16 instead")
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for attribute in attributes:
        if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
    del graph.value_info[:]
    return wide


VARIANTS: Final = {
    "fp32": Variant(Tolerance(logits=1e-4, proposals=0.999, pixels=1, codes=0.999)),
    "fp16": Variant(
        Tolerance(logits=0.03, proposals=0, pixels=8, codes=0.9), ("half",), partial(halved, dtype=torch.float16)
    ),
    "bf16": Variant(
        Tolerance(logits=0.2, proposals=0, pixels=64, codes=0.5),
        ("half",),
        partial(halved, dtype=torch.bfloat16),
        widened,
    ),
}
"""By name; fp32 comes first in a bundle."""
