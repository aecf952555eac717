"""Writes a bundle: graphs that were made and checked, each hashed, and all put under one manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx

from sundae_rt.errors import InputError
from sundae_rt.export.conversion import weights_file
from sundae_rt.export.making import Made, make
from sundae_rt.export.published.labels import LabelOrder
from sundae_rt.export.sources import Sources, from_checkpoints, from_preset
from sundae_rt.export.variants import in_order
from sundae_rt.files import replacing_folder
from sundae_rt.manifest import DataFile, GraphFile, Manifest, plain_name


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
    calibrate: Path | None = None,
    logits: bool = False,
    half_weights: bool = False,
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
        variants: ``fp32``, and beside it others of :data:`~sundae_rt.export.variants.VARIANTS`: ``int8``, a denoiser
            whose matrix products and a decoder whose convolutions take 8 bits, for CPUs; ``fp16`` and ``bf16``, all
            graphs in 16 bits, for GPUs. What each costs is measured and kept in the manifest.
        calibrate: codes that ``sundae-rt encode`` wrote, to calibrate 8-bit scales and to measure the price on (some
            for each); best of images that training never saw. Without it samples of the model's own serve.
        logits: add the graph of raw logits.
        half_weights: store the weights in 16 bits, which backends widen as they open them: half the size, computed in
            fp32. What the rounding changes is checked and kept in the manifest.
        force: replace an existing bundle, once the new one is whole.
        say: takes each line of progress.

    Returns:
        ``out``.

    Raises:
        InputError: bad arguments, unreadable or mismatched checkpoints and configs, an existing folder, or one
            whose name no bundle may have.
        BundleError: a graph that differs from PyTorch by more than its tolerance, or a denoiser whose price is over its
            limit; nothing is written. A decoder over its limit is left out, and a line says so.
    """
    variants = in_order(variants)
    if calibrate is not None and "int8" not in variants:
        raise InputError(f"--calibrate {calibrate} is for 8-bit variants: add --variants fp32,int8")
    if (preset is not None) != random_weights:
        raise InputError("--preset and --random-weights go together: a preset has no trained weights")
    if preset is not None and (checkpoint is not None or vqgan is not None):
        raise InputError("--preset makes both models: leave out --checkpoint and --vqgan")
    if preset is not None and (config is not None or vqgan_config is not None or image_size is not None):
        raise InputError("--preset has sizes of its own: leave out --config, --vqgan-config and --image-size")
    if config is None and (label_order != "index" or label_names is not None):
        raise InputError("--label-order and --label-names are for published priors: give their --config")
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
        if "int8" in variants and sources.prior is None:
            raise InputError("the variant int8 is a prior's: name one with --checkpoint, or leave it out of --variants")
        files: dict[str, dict[str, GraphFile]] = {}
        measured: dict[str, Any] = {}
        for made in make(sources, variants, folder, logits=logits, calibrate=calibrate, half_weights=half_weights):
            if made.model is not None:
                files.setdefault(made.graph, {})[made.variant] = _write(made.model, made, folder)
            of_variant = measured
            if made.variant != "fp32":
                of_variant = measured.setdefault("variants", {}).setdefault(made.variant, {})
            of_variant[made.graph] = made.figures
            for line in made.told:
                say(line)
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


def _write(model: onnx.ModelProto, made: Made, folder: Path) -> GraphFile:
    """Writes a graph, beside which its weights may lie already, and hashes both."""
    graph, data = model.SerializeToString(), None
    (folder / made.file).write_bytes(graph)
    if (weights := weights_file(model)) is not None:
        with (folder / weights).open("rb") as file:
            data = DataFile(weights, hashlib.file_digest(file, "sha256").hexdigest())
    return GraphFile(made.file, hashlib.sha256(graph).hexdigest(), made.requires, data)


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
