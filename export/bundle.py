"""Writes a bundle: each graph converted, checked against PyTorch, hashed, and put under one manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from sundae_rt.errors import InputError
from sundae_rt.export import checks, graphs
from sundae_rt.export.conversion import drop_output, to_onnx
from sundae_rt.export.sources import Sources, from_checkpoints, from_preset
from sundae_rt.files import replacing_folder
from sundae_rt.manifest import GraphFile, Manifest

VARIANTS = ("fp32",)
CHECKED_ROWS = 3


def export_checkpoint(
    checkpoint: Path | None = None,
    *,
    out: Path,
    vqgan: Path | None = None,
    preset: str | None = None,
    random_weights: bool = False,
    variants: Iterable[str] = VARIANTS,
    logits: bool = False,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Exports a prior and the VQ-GAN beside it, either alone, or a preset with random weights, to the folder ``out``.

    Args:
        checkpoint: ``prior.pt``; its VQ-GAN is found beside it.
        out: the bundle's folder; its name becomes the bundle's.
        vqgan: the VQ-GAN, where it lies elsewhere or is exported alone.
        preset: with ``random_weights``, the preset to build.
        random_weights: asked for explicitly, so that nobody serves noise by mistake.
        variants: precisions; this version makes ``fp32``.
        logits: add the graph of raw logits.
        force: replace an existing bundle, once the new one is whole.
        say: takes each line of progress.

    Returns:
        ``out``.

    Raises:
        InputError: bad arguments, unreadable or mismatched checkpoints, an existing folder.
        BundleError: a graph that differs from PyTorch by more than its tolerance; nothing is written.
    """
    for variant in variants:
        if variant not in VARIANTS:
            raise InputError(f"unknown variant {variant!r}: this version exports {', '.join(VARIANTS)}")
    if (preset is not None) != random_weights:
        raise InputError("--preset and --random-weights go together: a preset has no trained weights")
    if preset is not None and (checkpoint is not None or vqgan is not None):
        raise InputError("--preset makes both models: leave out --checkpoint and --vqgan")
    with replacing_folder(out, force=force) as folder:
        sources = from_preset(preset) if preset is not None else from_checkpoints(checkpoint, vqgan)
        files: dict[str, dict[str, GraphFile]] = {}
        measured: dict[str, Any] = {}
        for name, model, figures in _graphs(sources, logits):
            say(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in figures.items()))
            data = model.SerializeToString()
            (folder / f"{name}.onnx").write_bytes(data)
            files[name] = {"fp32": GraphFile(f"{name}.onnx", hashlib.sha256(data).hexdigest())}
            measured[name] = figures
        manifest = _manifest(out.resolve().name, sources, files, measured)
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    say(f"wrote {out}: {', '.join(files)}")
    return out


def _graphs(sources: Sources, logits: bool) -> Iterable[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    generator = torch.Generator().manual_seed(0)
    if sources.prior is not None:
        inputs = _denoiser_inputs(sources, generator)
        labelled = "label" in inputs
        module = (graphs.LabelledDenoiser if labelled else graphs.Denoiser)(sources.prior).eval()
        model = to_onnx(module, inputs, ["new_codes", "proposal", "confidence", "logits"])
        figures = checks.check_denoiser(model, module, inputs)
        drop_output(model, "logits")
        yield "denoiser", model, figures
        if logits:
            inputs = {name: inputs[name] for name in ("codes", "label") if name in inputs}
            plain = graphs.Logits(sources.prior).eval()
            model = to_onnx(plain, inputs, ["logits"])
            yield "logits", model, checks.check_logits(model, plain, inputs)
    if sources.vqgan is not None:
        sizes = sources.vqgan.config
        places = sizes.latent_side**2
        codes = torch.randint(sizes.codebook_size, (CHECKED_ROWS, places), generator=generator, dtype=torch.int32)
        decoder = graphs.Decoder(sources.vqgan).eval()
        model = to_onnx(decoder, {"codes": codes}, ["images"])
        yield "decoder", model, checks.check_decoder(model, decoder, {"codes": codes})
        # Pictures that the decoder makes are closer to what the encoder will see than noise is.
        with torch.no_grad():
            images = {"images": decoder(codes)}
        encoder = graphs.Encoder(sources.vqgan).eval()
        model = to_onnx(encoder, images, ["codes"])
        yield "encoder", model, checks.check_encoder(model, encoder, images)


def _denoiser_inputs(sources: Sources, generator: torch.Generator) -> dict[str, Tensor]:
    assert sources.prior is not None
    sizes = sources.prior.config
    places = sizes.latent_grid[0] * sizes.latent_grid[1]
    shape = (CHECKED_ROWS, places)
    inputs = {
        "codes": torch.randint(sizes.vocabulary, shape, generator=generator, dtype=torch.int32),
        # One row is greedy, so that both branches are checked.
        "temperature": torch.tensor([0.0, 0.7, 1.0]),
        "uniform": torch.rand(shape, generator=generator),
        "update": torch.rand(shape, generator=generator) < 0.5,
    }
    if sizes.labels:
        inputs["label"] = torch.randint(sizes.labels, (CHECKED_ROWS,), generator=generator, dtype=torch.int32)
        inputs["guidance"] = torch.tensor([1.0, 1.5, 1.0])
    return inputs


def _manifest(
    name: str, sources: Sources, files: dict[str, dict[str, GraphFile]], measured: dict[str, Any]
) -> Manifest:
    image_size, grid, vocabulary = None, (0, 0), 0
    if sources.vqgan is not None:
        sizes = sources.vqgan.config
        image_size = (sizes.image_size, sizes.image_size)
        grid, vocabulary = (sizes.latent_side, sizes.latent_side), sizes.codebook_size
    if sources.prior is not None:
        grid, vocabulary = sources.prior.config.latent_grid, sources.prior.config.vocabulary
    return Manifest(
        name=name,
        latent_grid=grid,
        vocabulary=vocabulary,
        graphs=files,
        image_size=image_size,
        labels=sources.labels,
        label_weights=sources.label_weights,
        default_schedule=sources.schedule,
        checks=measured,
        provenance=sources.provenance,
    )
