"""What a rewritten graph costs beside the fp32 one: a price is measured, and limited before it is in a bundle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sundae_rt.errors import BundleError
from sundae_rt.export.examples import ROWS, Examples, corrupted, denoiser_inputs
from sundae_rt.export.halves import PriorHalf
from sundae_rt.export.running import Arrays, Run

RATES = (0.25, 0.5, 0.75, 1.0)
"""Shares of corrupted codes at which a price is measured."""
LARGEST_RISE = 0.01
"""How much the cross-entropy of the true codes may rise at any of those, as a share of fp32's."""
LEAST_PSNR = 25.0
"""Decibels that every image of a decoder must reach beside fp32's. What codes lose of a picture is as much."""


def denoiser_price(fp32: Run, other: Run, prior: PriorHalf, examples: Examples) -> dict[str, Any]:
    """What a variant costs beside fp32, on held-out codes after corruption at several rates.

    Both get the same inputs. By rate: the share of places where both have the same most probable code
    (``equal_argmax``), and where the same uniforms draw the same code (``equal_draws``); the ``cross_entropy`` of the
    true codes in nats a code, fp32's own (``cross_entropy_fp32``), and its ``rise`` as a share of that.
    """
    price: dict[str, Any] = {"measured_on": examples.origin, "rates": {}}
    for rate in RATES:
        rows = [
            (_about(fp32(inputs), true), _about(other(inputs), true))
            for inputs, true in _heldout(prior, examples, rate)
        ]
        (codes, draws, entropy), (other_codes, other_draws, other_entropy) = (
            [np.concatenate(part) for part in zip(*side, strict=True)] for side in zip(*rows, strict=True)
        )
        before, after = float(entropy.mean()), float(other_entropy.mean())
        price["rates"][str(rate)] = {
            "equal_argmax": float((codes == other_codes).mean()),
            "equal_draws": float((draws == other_draws).mean()),
            "cross_entropy": after,
            "cross_entropy_fp32": before,
            "rise": _rise(before, after),
        }
    price["largest_rise"] = max(figures["rise"] for figures in price["rates"].values())
    # Thousands of samples take hours: a command of its own puts the distance here.
    price["frechet"] = "not measured at export: python -m sundae_rt.training.compare"
    return price


def _rise(before: float, after: float) -> float:
    """By what share it rose. A prior that is sure of every code has no cross-entropy to begin with."""
    if before == after:
        return 0.0
    return after / before - 1 if before else math.inf


def check_price(variant: str, price: dict[str, Any]) -> None:
    """Refuses a variant that is not worth its speed.

    Raises:
        BundleError: over the limit; one line.
    """
    rate, figures = max(price["rates"].items(), key=lambda entry: _order(entry[1]["rise"]))
    if not figures["rise"] <= LARGEST_RISE:
        raise BundleError(
            f"the variant {variant} is too coarse: at corruption {rate} its cross-entropy is {figures['rise']:.2%} "
            f"over fp32's, {LARGEST_RISE:.0%} allowed; leave it out of --variants; nothing was written"
        )


def table(variant: str, price: dict[str, Any]) -> Iterator[str]:
    """A price as lines for people."""
    yield f"{variant}, measured on {price['measured_on']}:"
    yield "  corruption  equal argmax  equal draws  cross-entropy  of fp32    rise"
    for rate, figures in price["rates"].items():
        yield (
            f"  {float(rate):10.0%}  {figures['equal_argmax']:12.2%}  {figures['equal_draws']:11.2%}"
            f"  {figures['cross_entropy']:13.4f}  {figures['cross_entropy_fp32']:7.4f}  {figures['rise']:+.3%}"
        )


def decoder_price(fp32: Run, other: Run, batches: Iterable[Arrays], origin: str) -> dict[str, Any]:
    """What a variant of the decoder costs beside fp32, on held-out codes.

    ``psnr`` of its pixels beside fp32's in decibels, over all images, and of the worst of them (``psnr_least``); equal
    images have None. ``pixels_mean_difference``, of 255.
    """
    differences = [other(codes)["images"].astype(np.int16) - fp32(codes)["images"] for codes in batches]
    of_images = np.concatenate([np.square(part, dtype=np.float64).mean((1, 2, 3)) for part in differences])
    return {
        "measured_on": origin,
        "images": len(of_images),
        "psnr": _decibels(of_images.mean()),
        "psnr_least": _decibels(of_images.max()),
        "pixels_mean_difference": float(np.concatenate([np.abs(part).mean((1, 2, 3)) for part in differences]).mean()),
    }


def decoder_fault(price: dict[str, Any]) -> str | None:
    """Why pictures are too far from those of fp32 for the limit, as a part of a line; None where they are not."""
    least = price["psnr_least"]
    if least is None or least >= LEAST_PSNR:
        return None
    return f"the pixels of one image reach {least:.1f} dB beside fp32's, {LEAST_PSNR:g} needed"


def decoder_line(variant: str, price: dict[str, Any]) -> str:
    """A decoder's price as a line for people."""
    mean, least = ("equal" if value is None else f"{value:.1f} dB" for value in (price["psnr"], price["psnr_least"]))
    return (
        f"decoder-{variant}, {price['images']} images of the same codes: PSNR {mean} beside fp32, the worst {least}, "
        f"pixels {price['pixels_mean_difference']:.2f} of 255 apart"
    )


def _decibels(error: float) -> float | None:
    """PSNR of a mean squared error of pixels, of 255."""
    return float(10 * np.log10(255**2 / error)) if error else None


def _heldout(prior: PriorHalf, examples: Examples, rate: float) -> Iterator[tuple[dict[str, Any], NDArray[np.int32]]]:
    """Batches of a denoiser's inputs, and the true codes of each."""
    rng = np.random.default_rng(round(1000 * rate))
    for start in range(0, len(examples.heldout), ROWS):
        true = examples.heldout[start : start + ROWS]
        labels = None if examples.heldout_labels is None else examples.heldout_labels[start : start + ROWS]
        yield denoiser_inputs(corrupted(true, rate, prior, rng), labels, rng), true


def _about(outputs: dict[str, NDArray[Any]], true: NDArray[np.int32]) -> tuple[NDArray[Any], ...]:
    """Most probable codes, drawn codes, and cross-entropies of the true ones, each ``[B, T]``."""
    logits = outputs["logits"].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    entropy = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, true[..., None], -1)[..., 0]
    return logits.argmax(-1), outputs["proposal"], entropy


def _order(rise: float) -> float:
    """Not-a-number is worse than any other."""
    return rise if rise == rise else float("inf")
