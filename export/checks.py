"""Does the exported graph do what PyTorch does? Both run on the same random inputs, and differences are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sundae_rt.errors import BundleError
from sundae_rt.export.running import opened


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


FP32 = Tolerance(logits=1e-4, proposals=0.999, pixels=1, codes=0.999)
"""For the model itself: a draw, or a nearest code, may be a tie within rounding."""
BORDER = 1e-6
"""Share of the draws that may differ for each code of the vocabulary. The more codes, the more borders between them,
and a uniform within rounding of a border may fall either way: of 8192 codes of equal chance 0.3 % differed."""
TIES = 2
"""So many codes may differ however few there are in all: among many codes some tie falls within rounding."""


def example_codes(shape: tuple[int, int], vocabulary: int, inputs: int, generator: torch.Generator) -> Tensor:
    """Random codes to check a prior on: int32 ``shape``, ``[B, T]``.

    Where a prior takes more ``inputs`` than its vocabulary, the one beyond is its mask: then the rows are masked more
    and more, and the last wholly.
    """
    codes = torch.randint(vocabulary, shape, generator=generator, dtype=torch.int32)
    if inputs == vocabulary:
        return codes
    shares = torch.linspace(1 / shape[0], 1, shape[0])
    return torch.where(torch.rand(shape, generator=generator) < shares[:, None], vocabulary, codes)


def run_onnx(
    model: onnx.ModelProto, inputs: dict[str, Tensor], folder: Path | None = None, rows: int | None = None
) -> list[np.ndarray]:
    """Runs a model under ONNX Runtime on the CPU; ``folder`` holds the weights that are not inside it.

    ``rows``: how many at once, where not all of them.
    """
    run, count = opened(model, folder), len(next(iter(inputs.values())))
    outputs = [
        run({name: tensor[start : start + (rows or count)].numpy() for name, tensor in inputs.items()}).values()
        for start in range(0, count, rows or count)
    ]
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


@torch.no_grad()
def check_denoiser(
    model: onnx.ModelProto,
    module: nn.Module,
    inputs: dict[str, Tensor],
    folder: Path | None = None,
    tolerance: Tolerance = FP32,
) -> dict[str, Any]:
    """Compares codes, proposals, confidence and logits; returns the figures.

    Raises:
        BundleError: a difference over its tolerance.
    """
    found = run_onnx(model, inputs, folder)
    wanted = [tensor.numpy() for tensor in module(*inputs.values())]
    scale = max(1.0, float(np.abs(wanted[3]).max()))
    figures = {
        "logits_max_difference": float(np.abs(found[3] - wanted[3]).max()),
        "logits_largest": scale,
        "confidence_max_difference": float(np.abs(found[2] - wanted[2]).max()),
        "equal_proposals": float((found[1] == wanted[1]).mean()),
    }
    if not figures["logits_max_difference"] <= tolerance.logits * scale:
        raise BundleError(
            f"the denoiser's ONNX graph differs from PyTorch: logits by {figures['logits_max_difference']:.3g}, "
            f"tolerance {tolerance.logits * scale:.3g}; nothing was written"
        )
    needed = min(tolerance.proposals, 1 - BORDER * found[3].shape[-1])
    if not _agree(found[1] == wanted[1], needed):
        raise BundleError(
            f"the denoiser's ONNX graph draws other codes than PyTorch: {figures['equal_proposals']:.2%} equal, "
            f"{needed:.2%} needed; nothing was written"
        )
    return figures


def check_decoder(
    model: onnx.ModelProto,
    wanted: Tensor,
    inputs: dict[str, Tensor],
    folder: Path | None = None,
    tolerance: Tolerance = FP32,
    rows: int | None = None,
) -> dict[str, Any]:
    """Compares pixels with those that PyTorch makes of the same inputs; returns the largest difference, of 255.

    ``rows``: see :func:`run_onnx`.

    Raises:
        BundleError: over the tolerance.
    """
    found = run_onnx(model, inputs, folder, rows)[0].astype(int)
    difference = int(np.abs(found - wanted.numpy()).max())
    if difference > tolerance.pixels:
        raise BundleError(
            f"the decoder's ONNX graph differs from PyTorch by {difference} of 255, tolerance {tolerance.pixels}; "
            "nothing was written"
        )
    return {"pixels_max_difference": difference}


@torch.no_grad()
def check_encoder(
    model: onnx.ModelProto,
    module: nn.Module,
    inputs: dict[str, Tensor],
    folder: Path | None = None,
    tolerance: Tolerance = FP32,
    rows: int | None = None,
) -> dict[str, Any]:
    """Compares codes; returns the share of equal ones. ``rows``: how many images at once, where not all of them.

    Raises:
        BundleError: under the tolerance.
    """
    wanted = torch.cat([module(batch) for batch in inputs["images"].split(rows or len(inputs["images"]))])
    equal = run_onnx(model, inputs, folder, rows)[0] == wanted.numpy()
    share = float(equal.mean())
    if not _agree(equal, tolerance.codes):
        raise BundleError(
            f"the encoder's ONNX graph finds other codes than PyTorch: {share:.2%} equal, "
            f"{tolerance.codes:.1%} needed; nothing was written"
        )
    return {"equal_codes": share}


@torch.no_grad()
def check_logits(
    model: onnx.ModelProto,
    module: nn.Module,
    inputs: dict[str, Tensor],
    folder: Path | None = None,
    tolerance: Tolerance = FP32,
) -> dict[str, Any]:
    """Compares logits; returns their largest difference.

    Raises:
        BundleError: over the tolerance.
    """
    found, wanted = run_onnx(model, inputs, folder)[0], module(*inputs.values()).numpy()
    difference, scale = float(np.abs(found - wanted).max()), max(1.0, float(np.abs(wanted).max()))
    if not difference <= tolerance.logits * scale:
        raise BundleError(f"the logits graph differs from PyTorch by {difference:.3g}; nothing was written")
    return {"logits_max_difference": difference}


def _agree(equal: np.ndarray, share: float) -> bool:
    """Whether enough codes are equal."""
    return bool(equal.mean() >= share or (~equal).sum() <= TIES)
