"""Makes the graphs of a bundle in every variant that is asked for: exported and checked, or rewritten and priced."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from sundae_rt.errors import BundleError
from sundae_rt.export import checks, graphs
from sundae_rt.export.conversion import INLINE_LIMIT, drop_output, to_onnx
from sundae_rt.export.examples import Examples, batches, own_examples, read_examples
from sundae_rt.export.pricing import (
    check_price,
    decoder_fault,
    decoder_line,
    decoder_price,
    denoiser_price,
    table,
)
from sundae_rt.export.running import Run, opened
from sundae_rt.export.sources import PriorHalf, Sources
from sundae_rt.export.variants import ROUNDED, VARIANTS, Exported, Rewritten
from sundae_rt.families import FAMILIES
from sundae_rt.runtime import image_batch
from sundae_rt.training.vqgan.model import VQGAN

CHECKED_ROWS = 3
"""Rows of codes that a prior's graphs are checked on."""
REWRITTEN_PIXELS = 2**21
"""Pixels that a rewritten decoder is calibrated on, or 8 images if they are more, and that measure it, or 2 images."""
CHECKED_IMAGES = 2
"""Images that a VQ-GAN's graphs are checked on: at a megapixel each they take most of an export's time."""


@dataclass(frozen=True, slots=True)
class Made:
    """One variant of one graph.

    ``model``: None where it costs too much and is left out; ``figures``: how far it is from the model in PyTorch, or
    what it costs beside the fp32 graph; ``told``: those as lines for people; ``requires``: what a backend must provide
    to run it.
    """

    graph: str
    variant: str
    model: onnx.ModelProto | None
    figures: dict[str, Any]
    told: tuple[str, ...]
    requires: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The name of the graph's file."""
        return _file(self.graph, self.variant)


def make(
    sources: Sources,
    variants: tuple[str, ...],
    folder: Path,
    *,
    logits: bool,
    calibrate: Path | None,
    half_weights: bool,
) -> Iterator[Made]:
    """All graphs of a prior, a VQ-GAN or both. Weights that lie outside a graph are in ``folder`` when it comes.

    Args:
        sources: the models.
        variants: names in :data:`~sundae_rt.export.variants.VARIANTS`, fp32 among them.
        folder: where the graphs are going to be written.
        logits: make the graph of raw logits too.
        calibrate: a file of codes to calibrate and measure on; samples of the model's own serve without.
        half_weights: round the weights of the fp32 graphs to fp16 and store them so.

    Raises:
        InputError: a weight that a variant cannot hold, or a file of codes that does not fit the model.
        BundleError: over a tolerance, or a denoiser over the limit of its price.
    """
    kinds = {name: VARIANTS[name] for name in variants}
    rewritten = {name: kind for name, kind in kinds.items() if isinstance(kind, Rewritten)}
    for name, kind in kinds.items():
        if not isinstance(kind, Exported):
            continue
        halves = half_weights and name == "fp32"
        generator = torch.Generator().manual_seed(0)  # the same inputs for every variant
        examples: Examples | None = None
        if sources.prior is not None:
            inputs = _denoiser_inputs(sources.prior, generator)
            is_shared = name == "fp32" and bool(rewritten)  # all of them read their weights from one file
            of_prior = ROUNDED if halves else kind
            model, made = _denoiser(name, of_prior, sources.prior, inputs, folder, 0 if is_shared else INLINE_LIMIT)
            faster: list[Made] = []
            if is_shared:
                examples, faster = _rewritten_denoisers(model, rewritten, sources, calibrate, folder)
            drop_output(model, "logits")
            yield made
            yield from faster
            if logits:
                yield _logits(name, of_prior, sources.prior, inputs, folder)
        if sources.vqgan is not None:
            has_weights = isinstance(sources.vqgan.model, VQGAN)
            of_pictures = ROUNDED if halves and has_weights else kind
            decoder, images = _decoder(name, of_pictures, sources, generator, folder)
            yield decoder
            if examples is not None and has_weights:
                yield from _rewritten_decoders(decoder.model, rewritten, examples, sources, folder)
            yield _encoder(name, of_pictures, sources, images, folder)


def _denoiser(
    name: str, kind: Exported, prior: PriorHalf, inputs: dict[str, Tensor], folder: Path, inline_limit: int
) -> tuple[onnx.ModelProto, Made]:
    """The denoiser, which puts out its logits too."""
    module = graphs.LabelledDenoiser if "label" in inputs else graphs.Denoiser
    outputs = ["new_codes", "proposal", "confidence", "logits"]
    path = folder / _file("denoiser", name)
    prepared = module(kind.prepare(prior.model)).eval()
    model = to_onnx(prepared, inputs, outputs, path, inline_limit, kind.half_weights)
    if kind.half_weights:  # what rounding changes comes on top of what the graph itself may be wrong by
        checks.check_denoiser(model, prepared, inputs, folder)
    wanted = module(prior.model).eval()
    with _blamed_on_rounding(kind):
        figures = checks.check_denoiser(kind.checkable(model, folder), wanted, inputs, folder, kind.tolerance)
    return model, _made("denoiser", name, kind, model, figures)


def _logits(name: str, kind: Exported, prior: PriorHalf, inputs: dict[str, Tensor], folder: Path) -> Made:
    inputs = {entry: inputs[entry] for entry in ("codes", "label") if entry in inputs}
    prepared, path = graphs.Logits(kind.prepare(prior.model)).eval(), folder / _file("logits", name)
    model = to_onnx(prepared, inputs, ["logits"], path, half_weights=kind.half_weights)
    if kind.half_weights:
        checks.check_logits(model, prepared, inputs, folder)
    wanted = graphs.Logits(prior.model).eval()
    with _blamed_on_rounding(kind):
        figures = checks.check_logits(kind.checkable(model, folder), wanted, inputs, folder, kind.tolerance)
    return _made("logits", name, kind, model, figures)


def _decoder(
    name: str, kind: Exported, sources: Sources, generator: torch.Generator, folder: Path
) -> tuple[Made, Tensor]:
    """The decoder, and the images that it was checked on."""
    assert sources.vqgan is not None
    vqgan, grid = sources.vqgan.model, sources.latent_grid
    shape = (CHECKED_IMAGES, math.prod(grid))
    codes = torch.randint(sources.codebook_size, shape, generator=generator, dtype=torch.int32)
    decoder, path = graphs.Decoder(kind.prepare(vqgan), grid).eval(), folder / _file("decoder", name)
    model = to_onnx(decoder, {"codes": codes}, ["images"], path, half_weights=kind.half_weights)
    rows = image_batch(sources.image_size)
    with torch.no_grad():
        images = torch.cat([graphs.Decoder(vqgan, grid).eval()(batch) for batch in codes.split(rows)])
    graph = kind.checkable(model, folder)
    with _blamed_on_rounding(kind):
        figures = checks.check_decoder(graph, images, {"codes": codes}, folder, kind.tolerance, rows)
    return _made("decoder", name, kind, model, figures), images


def _encoder(name: str, kind: Exported, sources: Sources, images: Tensor, folder: Path) -> Made:
    """The encoder, checked on pictures that the decoder makes: they are closer to what it will see than noise is."""
    assert sources.vqgan is not None
    vqgan = sources.vqgan.model
    encoder, path = graphs.Encoder(kind.prepare(vqgan)).eval(), folder / _file("encoder", name)
    model = to_onnx(encoder, {"images": images}, ["codes"], path, half_weights=kind.half_weights)
    wanted, rows = graphs.Encoder(vqgan).eval(), image_batch(sources.image_size)
    graph = kind.checkable(model, folder)
    with _blamed_on_rounding(kind):
        figures = checks.check_encoder(graph, wanted, {"images": images}, folder, kind.tolerance, rows)
    return _made("encoder", name, kind, model, figures)


@contextmanager
def _blamed_on_rounding(kind: Exported) -> Iterator[None]:
    """Adds to what a check says that it is the rounding of the weights that it refuses."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{error}: leave out --half-weights") if kind.half_weights else error from None


def _rewritten_denoisers(
    model: onnx.ModelProto, kinds: dict[str, Rewritten], sources: Sources, calibrate: Path | None, folder: Path
) -> tuple[Examples, list[Made]]:
    """Variants of the fp32 denoiser, which puts out its logits still, and the codes that they were measured on."""
    prior, fp32, made = sources.prior, opened(model, folder), []
    assert prior is not None
    examples = _examples(prior, sources, calibrate, fp32)
    for name, kind in kinds.items():
        faster = kind.denoiser(model, examples.calibration_batches(prior), folder)
        price = denoiser_price(fp32, opened(faster, folder), prior, examples)
        check_price(name, price)
        drop_output(faster, "logits")
        made.append(Made("denoiser", name, faster, price, tuple(table(name, price))))
    return examples, made


def _rewritten_decoders(
    model: onnx.ModelProto, kinds: dict[str, Rewritten], examples: Examples, sources: Sources, folder: Path
) -> Iterator[Made]:
    """Variants of the fp32 decoder; one over the limit of its price is left out, and another decodes in its place."""
    assert sources.image_size is not None
    count, rows = REWRITTEN_PIXELS // math.prod(sources.image_size), image_batch(sources.image_size)
    covering, heldout = examples.covering[: max(8, count)], examples.heldout[: max(2, count)]
    for name, kind in kinds.items():
        faster = kind.decoder(model, batches({"codes": covering}, rows), folder)
        runs = opened(model, folder), opened(faster, fuses=False)
        price = decoder_price(*runs, batches({"codes": heldout}, rows), examples.origin)
        line = decoder_line(name, price)
        if (fault := decoder_fault(price)) is None:
            yield Made("decoder", name, faster, price, (line,), kind.decoder_requires)
        else:
            told = line, f"decoder-{name} is left out: {fault}; beside {name} it runs in another variant"
            yield Made("decoder", name, None, price | {"left_out": fault}, told)


def _examples(prior: PriorHalf, sources: Sources, calibrate: Path | None, fp32: Run) -> Examples:
    if calibrate is None:
        return own_examples(prior, fp32)
    codes = None if sources.vqgan is None else sources.vqgan.provenance.get("codes_sha256")
    return read_examples(calibrate, prior, codes, fp32)


def _denoiser_inputs(prior: PriorHalf, generator: torch.Generator) -> dict[str, Tensor]:
    sizes = prior.model.config
    shape = (CHECKED_ROWS, math.prod(sizes.latent_grid))
    known = FAMILIES[prior.family](sizes.vocabulary).input_codes
    inputs = {
        "codes": checks.example_codes(shape, sizes.vocabulary, known, generator),
        # One row is greedy, so that both branches are checked.
        "temperature": torch.tensor([0.0, 0.7, 1.0]),
        "uniform": torch.rand(shape, generator=generator),
        "update": torch.rand(shape, generator=generator) < 0.5,
    }
    if sizes.labels:
        inputs["label"] = torch.randint(sizes.labels, (CHECKED_ROWS,), generator=generator, dtype=torch.int32)
        inputs["guidance"] = torch.tensor([1.0, 1.5, 1.0])
    return inputs


def _made(graph: str, name: str, kind: Exported, model: onnx.ModelProto, figures: dict[str, Any]) -> Made:
    if kind.half_weights:
        figures = {"weights": "fp16"} | figures
    told = ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else format(value, '.4g')}"
        for key, value in figures.items()
    )
    return Made(graph, name, model, figures, (f"{Path(_file(graph, name)).stem}: {told}",), kind.requires)


def _file(graph: str, variant: str) -> str:
    return f"{graph}.onnx" if variant == "fp32" else f"{graph}-{variant}.onnx"
