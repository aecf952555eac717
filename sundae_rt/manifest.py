"""The manifest of a bundle: what its graphs are, and all that the runtime must know to run them.

`Manifest.from_json` reads strictly: an unknown key, a missing one or a value out of range is a `BundleError` that names
the field. `Manifest.to_json` writes what `from_json` reads.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from sundae_rt.errors import BundleError, InputError, shown
from sundae_rt.families import FAMILIES, settings_of
from sundae_rt.schedule import Schedule
from sundae_rt.validation import one_of, real, strict_json, whole

FORMAT_VERSION: Final = 1
GRAPHS: Final = ("denoiser", "decoder", "encoder", "logits")

_REQUIRED: Final = ("format_version", "family", "name", "latent_grid", "vocabulary", "graphs")
_KEYS: Final = (
    "format_version",
    "family",
    "name",
    "image_size",
    "latent_grid",
    "vocabulary",
    "codebook_size",
    "labels",
    "label_weights",
    "null_label",
    "default_schedule",
    "graphs",
    "checks",
    "provenance",
)
_MAX_SIDE = 8192  # of an image in pixels, and of its grid of codes
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_LATER_SETTINGS: Final = ("stop", "order", "choice_temperature")  # of a schedule: older manifests have none

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataFile:
    """Weights that a graph's own file cannot hold (ONNX external data; a protobuf ends at 2 GiB).

    Attributes:
        file: plain file name inside the bundle, by which the graph names it.
        sha256: digest of the file's bytes, 64 hex digits.
    """

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class GraphFile:
    """One precision variant of one graph.

    Attributes:
        file: plain file name inside the bundle.
        sha256: digest of the file's bytes, 64 hex digits.
        requires: what a backend must provide to run it, such as "half"; empty if any backend can.
        data: the file of its weights, where they are not in `file`; left out of the JSON where there is none.
    """

    file: str
    sha256: str
    requires: tuple[str, ...] = ()
    data: DataFile | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's manifest.

    Attributes:
        name: plain name of the bundle.
        latent_grid: (h, w) of an image's codes.
        vocabulary: number of codes that the denoiser knows, 0 .. vocabulary - 1; without one, as `image_codes`.
        codebook_size: number of codes that encoder and decoder know, where they know more; None stands for vocabulary.
        graphs: graph name (one of `GRAPHS`) -> variant name ("fp32", ...) -> file.
        image_size: (H, W) of an image, multiples of the latent grid; None where the bundle has neither decoder nor
            encoder.
        labels: class names by id, or None for an unlabelled bundle.
        label_weights: share of each label in the training data, summing to 1; None stands for equal shares.
        null_label: whether the denoiser knows a null label, which guidance leads away from and `inpaint` takes where
            it is given none. None, as in manifests that do not say, lets guidance try and `inpaint` not.
        default_schedule: what `generate` does unless told otherwise.
        checks: what the export measured (free JSON).
        provenance: data, licence, recipe, metrics (free JSON).
        family: kind of model, one of `families.FAMILIES`.
        format_version: version of the manifest's format.

    Raises:
        BundleError: a value out of range, by its field's name.
    """

    name: str
    latent_grid: tuple[int, int]
    vocabulary: int
    graphs: Mapping[str, Mapping[str, GraphFile]]
    image_size: tuple[int, int] | None = None
    codebook_size: int | None = None
    labels: tuple[str, ...] | None = None
    label_weights: tuple[float, ...] | None = None
    null_label: bool | None = None
    default_schedule: Schedule = field(default_factory=Schedule)
    checks: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    family: str = "sundae"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.image_size is None:
            for graph in ("decoder", "encoder"):
                if graph in self.graphs:
                    raise BundleError(f"manifest: image_size is null, but the bundle has the graph {graph}")
        elif any(pixels % cells for pixels, cells in zip(self.image_size, self.latent_grid, strict=True)):
            raise BundleError(
                f"manifest: image_size {list(self.image_size)} must be a multiple of latent_grid "
                f"{list(self.latent_grid)}"
            )
        if self.codebook_size is not None and self.codebook_size < self.vocabulary:
            raise BundleError(
                f"manifest: codebook_size must be at least vocabulary, {self.vocabulary}, not {self.codebook_size}"
            )
        if self.labels is None and self.null_label:
            raise BundleError("manifest: null_label must be false or null without labels, not true")
        if not self.can_guide and self.default_schedule.guidance != 1:
            lacking = "labels" if self.labels is None else "a null label"
            raise BundleError(
                f"manifest: default_schedule: guidance must be 1 without {lacking}, "
                f"not {self.default_schedule.guidance:g}"
            )
        if self.label_weights is None:
            return
        if self.labels is None or len(self.labels) != len(self.label_weights):
            raise BundleError("manifest: label_weights must have one number for each of labels")
        if abs(sum(self.label_weights) - 1.0) > 1e-6:
            raise BundleError(f"manifest: label_weights must sum to 1, not {sum(self.label_weights):.6g}")

    @property
    def image_codes(self) -> int:
        """How many codes encoder and decoder know: those of pictures are 0 .. image_codes - 1."""
        return self.vocabulary if self.codebook_size is None else self.codebook_size

    @property
    def can_guide(self) -> bool:
        """Whether the denoiser can follow a guidance other than 1."""
        return self.labels is not None and self.null_label is not False

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Parse a manifest: JSON text, or its UTF-8 bytes.

        Raises:
            BundleError: not JSON, a newer format, another family, or a field that is unknown, missing or out of range.
        """
        try:
            return cls(**_fields(strict_json(text)))
        except InputError as error:
            raise BundleError(f"manifest: {error}") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"manifest: not valid JSON: {error}") from error

    def to_json(self) -> str:
        """The manifest as indented JSON text; `from_json` reads it back to an equal manifest."""
        values = asdict(self)
        for variant in (variant for variants in values["graphs"].values() for variant in variants.values()):
            if variant["data"] is None:
                del variant["data"]
        values["default_schedule"] = settings_of(self.family, self.default_schedule)
        return json.dumps({key: values[key] for key in _KEYS}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _fields(document: object) -> dict[str, Any]:
    """The checked values of a manifest's JSON; an `InputError` names the field at fault."""
    raw = _mapping("the document", document)
    version = whole("format_version", raw.get("format_version"), 1)
    if version > FORMAT_VERSION:
        raise InputError(
            f"format_version {version} is newer than this release reads ({FORMAT_VERSION}): upgrade sundae-rt"
        )
    family = raw.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(f"family {shown(family)} is unknown to this release, which knows {', '.join(FAMILIES)}")
    _check_keys("the document", raw, required=_REQUIRED, allowed=_KEYS)
    return {
        "family": family,
        "name": plain_name("name", raw["name"]),
        "latent_grid": _size("latent_grid", raw["latent_grid"]),
        "vocabulary": _codes("vocabulary", raw["vocabulary"]),
        "graphs": _graphs(raw["graphs"]),
        "image_size": _or_null(_size, "image_size", raw),
        "codebook_size": _or_null(_codes, "codebook_size", raw),
        "labels": _or_null(_labels, "labels", raw),
        "label_weights": _or_null(_weights, "label_weights", raw),
        "null_label": _or_null(_truth, "null_label", raw),
        "default_schedule": _or_null(partial(_schedule, family), "default_schedule", raw) or Schedule(),
        "checks": _mapping("checks", raw.get("checks", {})),
        "provenance": _mapping("provenance", raw.get("provenance", {})),
    }


def _codes(name: str, value: object) -> int:
    return whole(name, value, 1, 2**24)


def _graphs(value: object) -> dict[str, dict[str, GraphFile]]:
    graphs = _mapping("graphs", value)
    if not graphs:
        raise InputError("graphs must hold one graph or more")
    _check_keys("graphs", graphs, required=(), allowed=GRAPHS)
    return {graph: _variants(f"graphs.{graph}", variants) for graph, variants in graphs.items()}


def _variants(name: str, value: object) -> dict[str, GraphFile]:
    variants = _mapping(name, value)
    if not variants:
        raise InputError(f"{name} must hold one variant or more")
    return {
        plain_name(f"{name}: a variant's name", key): _graph_file(f"{name}.{key}", variants[key]) for key in variants
    }


def _graph_file(name: str, value: object) -> GraphFile:
    raw = _mapping(name, value)
    _check_keys(name, raw, required=("file", "sha256"), allowed=("file", "sha256", "requires", "data"))
    file, sha256 = plain_name(f"{name}.file", raw["file"]), _digest(f"{name}.sha256", raw["sha256"])
    requires = _strings(f"{name}.requires", raw.get("requires", []))
    data = None if raw.get("data") is None else _data_file(f"{name}.data", raw["data"])
    return GraphFile(file, sha256, requires, data)


def _data_file(name: str, value: object) -> DataFile:
    raw = _mapping(name, value)
    _check_keys(name, raw, required=("file", "sha256"), allowed=("file", "sha256"))
    return DataFile(plain_name(f"{name}.file", raw["file"]), _digest(f"{name}.sha256", raw["sha256"]))


def _digest(name: str, value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise InputError(f"{name} must be 64 lower-case hex digits, not {shown(value)}")
    return value


def _schedule(family: str, name: str, value: object) -> Schedule:
    raw = _mapping(name, value)
    known = FAMILIES[family].settings
    _check_keys(name, raw, required=[key for key in known if key not in _LATER_SETTINGS], allowed=known)
    try:
        return Schedule.from_settings(raw)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _truth(name: str, value: object) -> bool:
    return one_of(name, value, (True, False))


def _size(name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{name} must be [height, width], not {shown(value)}")
    height, width = (whole(name, side, 1, _MAX_SIDE) for side in value)
    return height, width


def _labels(name: str, value: object) -> tuple[str, ...]:
    labels = _strings(name, value)
    if not labels or not all(labels) or len(set(labels)) != len(labels):
        raise InputError(f"{name} must be different, non-empty names, not {shown(value)}")
    return labels


def _weights(name: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list of numbers, not {shown(value)}")
    return tuple(real(name, weight, 0.0, 1.0) for weight in value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.isprintable() for text in value):
        raise InputError(f"{name} must be a list of strings on one line each, not {shown(value)}")
    return tuple(value)


def plain_name(name: str, value: object) -> str:
    """A name that is safe as a file name: no separator, no leading dot, hence no way out of the bundle."""
    if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value):
        raise InputError(
            f"{name} must be a plain name (up to 100 letters, digits, '.', '_', '-', the first a letter or a digit), "
            f"not {shown(value)}"
        )
    return value


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{name} must be a JSON object, not {shown(value)}")
    return value


def _or_null(parse: Callable[[str, object], T], name: str, raw: Mapping[str, Any]) -> T | None:
    return None if raw.get(name) is None else parse(name, raw[name])


def _check_keys(name: str, raw: Mapping[str, Any], *, required: Sequence[str], allowed: Sequence[str]) -> None:
    for key in required:
        if key not in raw:
            raise InputError(f"{name} lacks {key!r}")
    for key in raw:
        if key not in allowed:
            raise InputError(f"{name} has the unknown key {shown(key)} (known: {', '.join(allowed)})")
