"""Writes a bundle: each graph converted, checked against PyTorch, hashed, and put under one manifest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from sundae_rt.errors import InputError
from sundae_rt.export import checks, graphs
from sundae_rt.export.conversion import drop_output, move_weights, to_onnx, weights_file
from sundae_rt.export.examples import own_examples, read_examples
from sundae_rt.export.published.labels import LabelOrder
from sundae_rt.export.running import opened
from sundae_rt.export.sources import PriorHalf, Sources, from_checkpoints, from_preset
from sundae_rt.export.variants import check_variants, int8_denoiser, table
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
    calibrate: Path | None = None,
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
        variants: ``fp32``, and beside it ``int8`` for a denoiser whose matrix products take 8 bits. Its price is
            measured and kept in the manifest.
        calibrate: codes that ``sundae-rt encode`` wrote, to calibrate 8-bit scales and to measure the price on (some
            for each); best of images that training never saw. Without it samples of the model's own serve.
        logits: add the graph of raw logits.
        force: replace an existing bundle, once the new one is whole.
        say: takes each line of progress.

    Returns:
        ``out``.

    Raises:
        InputError: bad arguments, unreadable or mismatched checkpoints and configs, an existing folder, or one
            whose name no bundle may have.
        BundleError: a graph that differs from PyTorch by more than its tolerance, or a variant whose price is over its
            limit; nothing is written.
    """
    variants = tuple(variants)
    check_variants(variants)
    if calibrate is not None and "int8" not in variants:
        raise InputError(f"--calibrate {calibrate} is for 8-bit variants: add --variants fp32,int8")
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
        if "int8" in variants and sources.prior is None:
            raise InputError("the variant int8 is a prior's: name one with --checkpoint, or leave it out of --variants")
        files: dict[str, dict[str, GraphFile]] = {}
        measured: dict[str, Any] = {}
        for made in _graphs(sources, logits, folder, variants, calibrate):
            files.setdefault(made.graph, {})[made.variant] = _write(made.model, folder / made.file)
            if made.variant == "fp32":
                measured[made.graph] = made.figures
                told = (f"{key.replace('_', ' ')} {value:.4g}" for key, value in made.figures.items())
                say(f"{made.graph}: {', '.join(told)}")
            else:
                measured.setdefault("variants", {}).setdefault(made.variant, {})[made.graph] = made.figures
                for line in table(made.variant, made.figures):
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


@dataclass(frozen=True, slots=True)
class _Made:
    """One variant of one graph, and its figures: beside PyTorch for fp32, its price beside fp32 for others."""

    graph: str
    model: onnx.ModelProto
    figures: dict[str, Any]
    variant: str = "fp32"

    @property
    def file(self) -> str:
        return f"{self.graph}.onnx" if self.variant == "fp32" else f"{self.graph}-{self.variant}.onnx"


def _write(model: onnx.ModelProto, path: Path) -> GraphFile:
    """Writes a graph, beside which its weights may lie already, and hashes both."""
    graph, data = model.SerializeToString(), None
    path.write_bytes(graph)
    if (weights := weights_file(model)) is not None:
        with path.with_name(weights).open("rb") as file:
            data = DataFile(weights, hashlib.file_digest(file, "sha256").hexdigest())
    return GraphFile(path.name, hashlib.sha256(graph).hexdigest(), data=data)


def _graphs(
    sources: Sources, logits: bool, folder: Path, variants: tuple[str, ...], calibrate: Path | None
) -> Iterator[_Made]:
    generator = torch.Generator().manual_seed(0)
    if sources.prior is not None:
        prior, inputs = sources.prior.model, _denoiser_inputs(sources.prior, generator)
        labelled = "label" in inputs
        module = (graphs.LabelledDenoiser if labelled else graphs.Denoiser)(prior).eval()
        outputs = ["new_codes", "proposal", "confidence", "logits"]
        model = to_onnx(module, inputs, outputs, folder / "denoiser.onnx")
        figures = checks.check_denoiser(model, module, inputs, folder)
        faster = None
        if "int8" in variants:
            # Both variants read their weights from one file.
            move_weights(model, folder / "denoiser.onnx")
            faster, price = _int8(model, sources, calibrate, folder)
        drop_output(model, "logits")
        yield _Made("denoiser", model, figures)
        if faster is not None:
            drop_output(faster, "logits")
            yield _Made("denoiser", faster, price, "int8")
        if logits:
            inputs = {name: inputs[name] for name in ("codes", "label") if name in inputs}
            plain = graphs.Logits(prior).eval()
            model = to_onnx(plain, inputs, ["logits"], folder / "logits.onnx")
            yield _Made("logits", model, checks.check_logits(model, plain, inputs, folder))
    if sources.vqgan is not None:
        vqgan, grid = sources.vqgan.model, sources.latent_grid
        shape = (CHECKED_IMAGES, math.prod(grid))
        codes = torch.randint(sources.codebook_size, shape, generator=generator, dtype=torch.int32)
        decoder = graphs.Decoder(vqgan, grid).eval()
        model = to_onnx(decoder, {"codes": codes}, ["images"], folder / "decoder.onnx")
        # Pictures that the decoder makes are closer to what the encoder will see than noise is.
        with torch.no_grad():
            images = decoder(codes)
        yield _Made("decoder", model, checks.check_decoder(model, images, {"codes": codes}, folder))
        encoder = graphs.Encoder(vqgan).eval()
        model = to_onnx(encoder, {"images": images}, ["codes"], folder / "encoder.onnx")
        yield _Made("encoder", model, checks.check_encoder(model, encoder, {"images": images}, folder))


def _int8(
    model: onnx.ModelProto, sources: Sources, calibrate: Path | None, folder: Path
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    prior, run = sources.prior, opened(model, folder)
    assert prior is not None
    if calibrate is None:
        examples = own_examples(prior, run)
    else:
        codes = None if sources.vqgan is None else sources.vqgan.provenance.get("codes_sha256")
        examples = read_examples(calibrate, prior, codes, run)
    return int8_denoiser(model, prior, examples, folder)


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
