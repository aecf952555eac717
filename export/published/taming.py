"""VQ-GANs of *Taming Transformers* (Esser et al. 2021), ``VQModel`` and ``GumbelVQ``, and of code that follows it.

A Lightning checkpoint with its yaml. The autoencoder may stand alone, or inside a transformer's checkpoint as
``first_stage_model``, with its settings under ``first_stage_config``. This project's names are those of that code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sundae_rt.errors import InputError, shown
from sundae_rt.export.published import tensors
from sundae_rt.export.published.documents import read_yaml
from sundae_rt.export.published.values import Values
from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig

PARTS = r"encoder\.(?:down|mid)|decoder\.(?:up|mid)"
"""What the names of such a model's weights hold."""

_TRAINING_ONLY = ("loss.", "discriminator.", "perceptual_loss.")
# Which codes `remap` numbers anew, where it was on. Where the config has it out, codes keep the codebook's numbers.
_REMAPPED = "quantize.used"
# Switches of the published code (and of latent diffusion's copy of it) that change the networks: what is built here.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "in_channels": (3,),
    "out_ch": (3,),
    "double_z": (False,),
    "give_pre_end": (False,),
    "tanh_out": (False,),
    "use_linear_attn": (False,),
    "attn_type": ("vanilla",),
}


def read_taming(path: Path, weights: tensors.Weights, config: Path) -> tuple[VQGAN, dict[str, Any]]:
    """Builds the VQ-GAN of a checkpoint; returns it and its provenance.

    Args:
        path: the checkpoint, for messages.
        weights: its tensors, as :func:`tensors.read` gives them.
        config: its yaml.

    Raises:
        InputError: an unreadable config, one that contradicts the weights (both sides are named), or missing,
            unexpected, wrongly shaped or not finite weights, by name.
    """
    own = tensors.without(tensors.of_model(weights, PARTS, path), *_TRAINING_ONLY, _REMAPPED)
    target, params = _autoencoder(config)
    gumbel = "quantize.proj.weight" in own
    if target and ("Gumbel" in target) != gumbel:
        holds = "a Gumbel quantiser (quantize.proj)" if gumbel else "no Gumbel quantiser (no quantize.proj)"
        raise InputError(f"{config} says target {target}, but {path} has {holds}")
    sizes = _sizes(params, gumbel)
    model = tensors.filled(lambda: VQGAN(sizes), own, _published if gumbel else str, path, config)
    name = "GumbelVQ" if gumbel else "VQModel"
    return model, {"format": f"taming-transformers {name}", "checkpoint": path.name, "config": config.name}


def _published(name: str) -> str:
    return name.replace("quantize.embedding.", "quantize.embed.")


def _sizes(params: Values, gumbel: bool) -> VQGANConfig:
    codes = params.whole("n_embed")
    # A bundle could not do the same: a latent whose nearest code is not in the file gets one of the others at random.
    if (remap := params.get("remap", None)) is not None:
        raise InputError(
            f"{params.where}: remap = {shown(remap)} is not supported: take it out, and the bundle has all {codes} "
            "codes of the codebook; the i-th number in that file is the one that the remapped code i has among them"
        )
    nested = params.get("ddconfig")
    networks = Values(nested, f"{params.where}.ddconfig")
    for key, allowed in _FIXED.items():
        networks.one_of(key, allowed, allowed[0])
    resolution, multipliers = networks.whole("resolution"), networks.wholes("ch_mult", (1, 2, 4, 8))
    factor = 2 ** max(len(multipliers) - 1, 0)
    if resolution % factor:
        nearest = max(resolution // factor, 1) * factor
        raise InputError(
            f"{networks.where}: resolution must be a multiple of f = {factor}, not {resolution}: put {nearest} in its "
            "place; it settles where attention sits, and --image-size the size of the pictures"
        )
    with params.named(networks.where):
        return VQGANConfig(
            image_size=resolution,
            channels=networks.whole("ch"),
            multipliers=multipliers,
            residual_blocks=networks.whole("num_res_blocks"),
            attention_resolutions=networks.wholes("attn_resolutions"),
            latent_channels=networks.whole("z_channels"),
            code_dim=params.whole("embed_dim"),
            codebook_size=codes,
            unit_norm=False,
            quantiser="gumbel" if gumbel else "nearest",
            resampling_convolutions=networks.one_of("resamp_with_conv", (True, False), True),
        )


def _autoencoder(config: Path) -> tuple[str | None, Values]:
    """The class and the parameters of the one autoencoder that a yaml describes, wherever it lies in it."""
    found = list(_search(read_yaml(config), (), None))
    chosen = [entry for entry in found if "first_stage_config" in entry[0]] or found
    if len(chosen) != 1:
        told = " and ".join(".".join(keys) or "the document" for keys, _, _ in chosen) or "nowhere"
        raise InputError(f"{config} must describe one autoencoder by a ddconfig, and has it in: {told}")
    keys, target, params = chosen[0]
    return target, Values(params, f"{config}: {'.'.join(keys) or 'the document'}")


def _search(node: Any, keys: tuple[str, ...], target: Any) -> Iterator[tuple[tuple[str, ...], str | None, Any]]:
    """Every mapping with a ``ddconfig``: the keys that lead to it, the ``target`` beside it, and itself."""
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get("ddconfig"), Mapping):
        yield keys, target if isinstance(target, str) else None, node
        return
    for key, value in node.items():
        yield from _search(value, (*keys, str(key)), node.get("target"))
