"""The tensors of a published file, found by name and put into this project's own model.

Whatever nests around the tensors (``state_dict``, ``first_stage_model``, a wrapper) becomes part of their names, so one
search for a prefix finds a model wherever it lies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sundae_rt.errors import InputError, one_line
from sundae_rt.training import checkpoint

Weights = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


def contents(path: Path) -> Mapping[str, Any]:
    """What a file holds, ``.safetensors`` or PyTorch's: tensors, in whatever nests around them, and plain values.

    They are read with ``mmap``: see :func:`checkpoint.read`.

    Raises:
        InputError: missing, unreadable, or holding more than tensors and plain values.
    """
    if path.suffix != ".safetensors":
        return checkpoint.read(path, mmap=True)
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from error


def read(path: Path) -> Weights:
    """All tensors of a file by their names, dots between the levels of nesting.

    Raises:
        InputError: missing, unreadable, or holding more than tensors and plain values.
    """
    return flat(contents(path))


def flat(values: Mapping[Any, Any]) -> Weights:
    """The tensors of a file's :func:`contents` by their names, dots between the levels of nesting."""
    return dict(_flat(values, ""))


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")


def has(weights: Weights, parts: str) -> bool:
    """Whether some name holds one of a model's parts, a regular expression, behind any prefix."""
    return bool(_prefixes(weights, parts))


def of_model(weights: Weights, parts: str, path: Path) -> Weights:
    """The weights of the one model whose parts these are, by their names without what stands before them.

    See :func:`prefix_of` for which model that is. Averages among its own weights (``model_ema.``) are left out.

    Raises:
        InputError: more than one such model; each prefix is named.
    """
    prefix = prefix_of(weights, parts, path)
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in own.items() if not is_average(name)}


def prefix_of(weights: Weights, parts: str, path: Path) -> str:
    """What stands before the names of the one model whose parts these are.

    Where an autoencoder lies beside others inside a bigger model, it is the one called ``first_stage_model``. Averages
    of a model (``ema`` beside ``net``, ``state_dict`` or ``model``) do not count, unless there is nothing else.

    Raises:
        InputError: more than one such model; each prefix is named.
    """
    chosen, _ = _chosen(weights, parts)
    if len(chosen) != 1:
        raise InputError(f"{path} holds {len(chosen)} such models, under {' and '.join(map(repr, chosen))}: keep one")
    return chosen[0]


def notes(weights: Weights, parts: str, path: Path) -> tuple[str, ...]:
    """A line that names the averages beside a model that :func:`of_model` found, if there are any."""
    prefix, (_, averages) = prefix_of(weights, parts, path), _chosen(weights, parts)
    among = {
        prefix + name.partition(".")[0]
        for name in (name.removeprefix(prefix) for name in weights if name.startswith(prefix))
        if is_average(name)
    }
    ignored = sorted({average.rstrip(".") for average in averages} | among)
    return (f"{path}: the averaged weights under {', '.join(ignored)} are ignored",) if ignored else ()


def is_average(name: str) -> bool:
    """Whether a name begins as those of averaged weights do: ``ema.``, ``model_ema.``, ``ema_model.``."""
    return "ema" in name.partition(".")[0].lower().split("_")


def _chosen(weights: Weights, parts: str) -> tuple[list[str], list[str]]:
    """The prefixes of what may be the model, and of its averages."""
    found = _prefixes(weights, parts)
    averages = [prefix for prefix in found if any(map(is_average, prefix.split(".")))]
    live = [prefix for prefix in found if prefix not in averages]
    if not live:
        live, averages = averages, []
    return [prefix for prefix in live if prefix.endswith("first_stage_model.")] or live, averages


def _prefixes(weights: Weights, parts: str) -> list[str]:
    pattern = re.compile(rf"((?:.*?\.)?)(?:{parts})\.")
    counts = Counter(match[1] for name in weights if (match := pattern.match(name)))
    return [prefix for prefix, _ in counts.most_common()]


def without(weights: Weights, *prefixes: str) -> Weights:
    """The weights whose names start with none of these."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(prefixes)}


def shape_of(weights: Weights, name: str, axes: int, path: Path) -> tuple[int, ...]:
    """The shape of one tensor, which must be there and have so many axes.

    Raises:
        InputError: it is not, or has not.
    """
    if name not in weights:
        raise InputError(f"{path}: missing weights {name}")
    if weights[name].ndim != axes:
        raise InputError(f"{path}: {name} is {list(weights[name].shape)}, which is not {axes} axes")
    return tuple(weights[name].shape)


def filled(
    build: Callable[[], Model],
    weights: Weights,
    published: Callable[[str], str | tuple[str, ...]],
    path: Path,
    config: Path,
    unused: Container[str] = (),
) -> Model:
    """A model with published weights in it, float32, in evaluation mode.

    ``build`` makes the model, all of whose tensors must be in its state dict; the rest is as :func:`fitting` has it.

    Raises:
        InputError: as :func:`fitting`.
    """
    with torch.device("meta"):  # no memory, and no time for random numbers that are thrown away
        model = build()
    parts = fitting(model, weights, published, path, config, unused)
    # Copies: what still lies in a mapped file changes when somebody writes to that file.
    filling = {own: [weights[part].to(torch.float32, copy=True) for part in several] for own, several in parts.items()}
    model.load_state_dict(
        {own: torch.cat(several) if len(several) > 1 else several[0] for own, several in filling.items()}, assign=True
    )
    return model.requires_grad_(False).eval()


def fitting(
    model: nn.Module,
    weights: Weights,
    published: Callable[[str], str | tuple[str, ...]],
    path: Path,
    config: Path,
    unused: Container[str] = (),
) -> dict[str, tuple[str, ...]]:
    """The published names behind each of a model's tensors, once these fit it and are finite numbers.

    Args:
        model: where they shall go.
        weights: by their published names.
        published: our name of a tensor to the published one, or to those whose rows it holds, in their order.
        path: the file that the weights are from, for messages.
        config: what the model's sizes are from, for messages.
        unused: published names that may be there without having a place in the model.

    Raises:
        InputError: missing, unexpected, wrongly shaped or not finite weights, by their published names.
    """
    where = f"{path} does not fit {config}"
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    parts = {name: _several(published(name)) for name in shapes}
    wanted = {part: name for name, several in parts.items() for part in several}
    missing = wanted.keys() - weights.keys()
    unexpected = {name for name in weights.keys() - wanted.keys() if name not in unused}
    if missing or unexpected:
        told = f"missing weights {checkpoint.listed(missing)}; unexpected weights {checkpoint.listed(unexpected)}"
        raise InputError(f"{where}: {told}")
    for name, own in wanted.items():
        shape = shapes[own]
        if (count := len(parts[own])) > 1:
            shape = [shape[0] // count, *shape[1:]]
        if list(weights[name].shape) != shape:
            raise InputError(f"{where}: {name} is {list(weights[name].shape)}, the config asks for {shape}")
    checkpoint.check_finite({name: weights[name] for name in wanted}, str(path))
    return parts


def _several(published: str | tuple[str, ...]) -> tuple[str, ...]:
    return (published,) if isinstance(published, str) else published
