"""The precisions that a bundle's graphs come in: how each is made, what it needs, and how far from fp32 it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from sundae_rt.errors import InputError
from sundae_rt.export.checks import FP32, Tolerance
from sundae_rt.export.convolutions import convolved
from sundae_rt.export.halving import halved
from sundae_rt.export.quantisation import quantised
from sundae_rt.export.rounding import rounded
from sundae_rt.export.running import widened

Batches = Iterable[Mapping[str, NDArray[Any]]]
Rewrite = Callable[[onnx.ModelProto, Batches, Path], onnx.ModelProto]


@dataclass(frozen=True, slots=True)
class Exported:
    """A variant of every graph, each exported from a module and compared with the fp32 model in PyTorch.

    ``tolerance``: see :class:`~sundae_rt.export.checks.Tolerance`; ``requires``: what a backend must provide to run it;
    ``prepare``: makes the module to export of a prior or a VQ-GAN; ``checkable``: makes of a graph, and
    the folder with its weights, one that ONNX Runtime runs on a CPU; ``half_weights``: store weights that fp16 holds
    exactly as such.
    """

    tolerance: Tolerance
    requires: tuple[str, ...] = ()
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model
    checkable: Callable[[onnx.ModelProto, Path], onnx.ModelProto] = lambda model, folder: model
    half_weights: bool = False


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A variant of denoiser and decoder that is made of their fp32 graphs. There is none of the encoder: which code is
    the nearest hangs on differences that are smaller than its rounding.

    What it costs beside fp32 is measured and limited (:mod:`~sundae_rt.export.pricing`). ``denoiser``, ``decoder``:
    take the graph, batches of inputs to calibrate on, and the folder with the weights, of which the denoisers share one
    file.
    ``decoder_requires``: what a backend must provide to run the decoder.
    """

    denoiser: Rewrite
    decoder: Rewrite
    decoder_requires: tuple[str, ...] = ()


VARIANTS: Final[dict[str, Exported | Rewritten]] = {
    "fp32": Exported(FP32),
    "int8": Rewritten(quantised, convolved, ("uint8",)),
    "fp16": Exported(
        Tolerance(logits=0.03, proposals=0, pixels=8, codes=0.9), ("half",), partial(halved, dtype=torch.float16)
    ),
    "bf16": Exported(
        Tolerance(logits=0.2, proposals=0, pixels=64, codes=0.5),
        ("half",),
        partial(halved, dtype=torch.bfloat16),
        widened,
    ),
}
"""By name, in the order in which a bundle lists them."""


ROUNDED: Final = Exported(Tolerance(logits=0.01, proposals=0, pixels=4, codes=0.98), prepare=rounded, half_weights=True)
"""How the fp32 graphs are made where their weights are to be stored in 16 bits."""


def in_order(wanted: Iterable[str]) -> tuple[str, ...]:
    """The variants that are asked for, each once, in the order of :data:`VARIANTS`.

    Raises:
        InputError: a name that export does not know; or fp32, by which all others are judged, is missing.
    """
    names = tuple(wanted)
    for name in names:
        if name not in VARIANTS:
            raise InputError(f"unknown variant {name!r}: this version exports {', '.join(VARIANTS)}")
    if "fp32" not in names:
        raise InputError(f"the variants {','.join(names)} lack fp32, by which the others are judged: add it")
    return tuple(name for name in VARIANTS if name in names)
