"""Writes a bundle: each graph converted, checked against PyTorch, hashed, and put under one manifest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from sundae_rt.errors import InputError
from sundae_rt.export import checks, graphs
from sundae_rt.export.conversion import data_path, drop_output, to_onnx
from sundae_rt.export.published.labels import LabelOrder
from sundae_rt.export.sources import PriorHalf, Sources, from_checkpoints, from_preset
from sundae_rt.export.variants import VARIANTS
from sundae_rt.families import FAMILIES
from sundae_rt.files import replacing_folder
from sundae_rt.manifest import DataFile, GraphFile, Manifest, plain_name

CHECKED_ROWS = 3
"""Rows of codes that a prior's graphs are checked on."""
CHECKED_IMAGES = 2
"""Images that a VQ-GAN's graphs are checked on: at a megapixel each they take most of an export's time and memory."""


def export_checkpoint(
    checkpoint: Path | None = None,
    *,
    out: Path,
    vqgan: Path | None = None,
    config: Path | None = None,
    vqgan_config: Path | None = None,
    label_order: LabelOrder = "index",
    label_names: Path | None = None,
    image_size: tuple[int, int] | None = None,
    preset: str | None = None,
    random_weights: bool = False,
    variants: Iterable[str] = ("fp32",),
    logits: bool = False,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Exports a prior and the VQ-GAN beside it, either alone, or a preset with random weights, to the folder ``out``.

    Args:
        checkpoint: ``prior.pt``, whose VQ-GAN is found beside it; or a published prior.
        out: the bundle's folder; its name becomes the bundle's.
        vqgan: the VQ-GAN, where it lies elsewhere or is exported alone; or a published one, a file or a folder.
        config: the config of a published prior.
        vqgan_config: the config of a published VQ-GAN; a ``diffusers`` folder holds its own.
        label_order: how a published prior numbers its classes; ``string`` for the published ImageNet runs.
        label_names: a file with a name for each of its classes, one a line.
        image_size: (H, W) of images in pixels, where a VQ-GAN exported alone is not to have its nominal size.
        preset: with ``random_weights``, the preset to build, by its name or the path of a toml file.
        random_weights: asked for explicitly, so that nobody serves noise by mistake.
        variants: precisions, of :data:`~sundae_rt.export.variants.VARIANTS`.
        logits: add the graph of raw logits.
        force: replace an existing bundle, once the new one is whole.
        say: takes each line of progress.

    Returns:
        ``out``.

    Raises:
        InputError: bad arguments, unreadable or mismatched checkpoints and configs, an existing folder, or one
            whose name no bundle may have.
        BundleError: a graph that differs from PyTorch by more than its tolerance; nothing is written.
    """
    variants = sorted(set(variants), key=[*VARIANTS, *variants].index)
    for variant in variants:
        if variant not in VARIANTS:
            raise InputError(f"unknown variant {variant!r}: this version exports {', '.join(VARIANTS)}")
    if (preset is not None) != random_weights:
        raise InputError("--preset and --random-weights go together: a preset has no trained weights")
    if preset is not None and (checkpoint is not None or vqgan is not None):
        raise InputError("--preset makes both models: leave out --checkpoint and --vqgan")
    if preset is not None and (vqgan_config is not None or image_size is not None):
        raise InputError("--preset has sizes of its own: leave out --vqgan-config and --image-size")
    name = _bundle_name(out)
    with replacing_folder(out, force=force) as folder:
        sources = (
            from_preset(preset)
            if preset is not None
            else from_checkpoints(
                checkpoint,
                vqgan,
                config=config,
                vqgan_config=vqgan_config,
                label_order=label_order,
                label_names=label_names,
                image_size=image_size,
            )
        )
        for note in sources.notes:
            say(note)
        files: dict[str, dict[str, GraphFile]] = {}
        measured: dict[str, Any] = {}
        for variant in variants:
            for graph, path, model, figures in _graphs(sources, logits, folder, variant):
                figures_said = (f"{key.replace('_', ' ')} {value:.4g}" for key, value in figures.items())
                say(f"{path.stem}: {', '.join(figures_said)}")
                files.setdefault(graph, {})[variant] = _write(model, path, VARIANTS[variant].requires)
                measured[path.stem] = figures
        manifest = folder / "manifest.json"
        manifest.write_text(_manifest(name, sources, files, measured).to_json(), encoding="utf-8")
        Manifest.from_json(manifest.read_bytes())  # a bundle that nothing could open is not put in place
    say(f"wrote {out}: {', '.join(files)}")
    return out


def _bundle_name(out: Path) -> str:
    try:
        return plain_name("a bundle's name", out.resolve().name)
    except InputError as error:
        raise InputError(f"{error}: name another folder with --out") from error


def _write(model: onnx.ModelProto, path: Path, requires: tuple[str, ...]) -> GraphFile:
    """Writes a graph, beside which `to_onnx` may have put its weights, and hashes both."""
    graph, data = model.SerializeToString(), None
    path.write_bytes(graph)
    if (weights := data_path(path)).exists():
        with weights.open("rb") as file:
            data = DataFile(weights.name, hashlib.file_digest(file, "sha256").hexdigest())
    return GraphFile(path.name, hashlib.sha256(graph).hexdigest(), requires, data)


def _graphs(
    sources: Sources, logits: bool, folder: Path, variant: str
) -> Iterable[tuple[str, Path, onnx.ModelProto, dict[str, Any]]]:
    """Each graph of one variant: name, where its file belongs, the graph, and how far it is from PyTorch in fp32."""
    generator = torch.Generator().manual_seed(0)
    kind = VARIANTS[variant]
    prepare, checkable, tolerance = kind.prepare, kind.checkable, kind.tolerance
    suffix = "" if variant == "fp32" else f"-{variant}"
    if sources.prior is not None:
        prior, inputs = sources.prior.model, _denoiser_inputs(sources.prior, generator)
        kept = prepare(prior)
        module = graphs.LabelledDenoiser if "label" in inputs else graphs.Denoiser
        outputs = ["new_codes", "proposal", "confidence", "logits"]
        path = folder / f"denoiser{suffix}.onnx"
        model = to_onnx(module(kept).eval(), inputs, outputs, path)
        figures = checks.check_denoiser(checkable(model), module(prior).eval(), inputs, folder, tolerance)
        drop_output(model, "logits")
        yield "denoiser", path, model, figures
        if logits:
            inputs = {name: inputs[name] for name in ("codes", "label") if name in inputs}
            path = folder / f"logits{suffix}.onnx"
            model = to_onnx(graphs.Logits(kept).eval(), inputs, ["logits"], path)
            plain = graphs.Logits(prior).eval()
            yield "logits", path, model, checks.check_logits(checkable(model), plain, inputs, folder, tolerance)
    if sources.vqgan is not None:
        vqgan, grid = sources.vqgan.model, sources.latent_grid
        kept = prepare(vqgan)
        shape = (CHECKED_IMAGES, math.prod(grid))
        codes = torch.randint(sources.codebook_size, shape, generator=generator, dtype=torch.int32)
        path = folder / f"decoder{suffix}.onnx"
        model = to_onnx(graphs.Decoder(kept, grid).eval(), {"codes": codes}, ["images"], path)
        # Pictures that the decoder makes are closer to what the encoder will see than noise is.
        with torch.no_grad():
            images = graphs.Decoder(vqgan, grid).eval()(codes)
        figures = checks.check_decoder(checkable(model), images, {"codes": codes}, folder, tolerance)
        yield "decoder", path, model, figures
        path = folder / f"encoder{suffix}.onnx"
        model = to_onnx(graphs.Encoder(kept).eval(), {"images": images}, ["codes"], path)
        encoder = graphs.Encoder(vqgan).eval()
        figures = checks.check_encoder(checkable(model), encoder, {"images": images}, folder, tolerance)
        yield "encoder", path, model, figures


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


def _manifest(
    name: str, sources: Sources, files: dict[str, dict[str, GraphFile]], measured: dict[str, Any]
) -> Manifest:
    of_prior: dict[str, Any] = {}
    if (prior := sources.prior) is not None:
        of_prior = {
            "family": prior.family,
            "labels": prior.labels,
            "label_weights": prior.label_weights,
            "null_label": prior.model.config.null_label if prior.labels is not None else None,
            "default_schedule": prior.schedule,
        }
    return Manifest(
        name=name,
        latent_grid=sources.latent_grid,
        vocabulary=sources.vocabulary,
        codebook_size=None if sources.codebook_size == sources.vocabulary else sources.codebook_size,
        graphs=files,
        image_size=sources.image_size,
        checks=measured,
        provenance=sources.provenance,
        **of_prior,
    )
