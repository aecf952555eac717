"""How an image was made, in the PNG file itself: enough to make it again.

One text chunk with the key `sundae-rt` holds one JSON object with exactly the fields of `Provenance`. Reading is
strict: the text is parsed, never evaluated, and a missing, unknown or ill-typed field is refused by name.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from PIL.PngImagePlugin import PngImageFile, PngInfo

from sundae_rt.errors import InputError, shown
from sundae_rt.families import FAMILIES, settings_of
from sundae_rt.images import opened
from sundae_rt.noise import MAX_SEED
from sundae_rt.schedule import Schedule
from sundae_rt.validation import one_of, strict_json, whole

KEY = "sundae-rt"
"""The key of the PNG text chunk."""

_MAX_CHARACTERS = 65_536
_DIGESTS = ("fingerprint", "image_sha256", "mask_sha256")
_OPTIONAL = ("label", "image_sha256", "mask_sha256", "mask")
_LATER = ("family", "mask", "stop", "order", "choice_temperature")  # fields that files of version 0.1.0 lack
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Provenance:
    """The settings that made one image.

    Attributes:
        command: what made it.
        version: of sundae-rt.
        bundle: name of the bundle.
        fingerprint: SHA-256 of the bundle's manifest, 64 hex digits.
        variant: precision variant that ran.
        backend: execution backend that ran.
        index: the image's index in its run, 0 .. 2**64 - 1.
        seed: the image's own seed (the run's seed plus `index`), 0 .. 2**64 - 1.
        schedule: what each step did; in JSON, the fields that mean something to the family, beside the others.
        label: name of the image's label, given or drawn; None for an unlabelled bundle, and for an inpainted image that
            was given none, where its bundle knows a null label.
        image_sha256: of the file that was inpainted, 64 hex digits; None for a generated image.
        mask_sha256: of the mask's file, likewise; None where the mask was no file.
        mask: the mask's kind and parameters, as `sundae_rt.masks` reads them; None where it was a file.
        family: of the model, one of `families.FAMILIES`.
    """

    command: Literal["generate", "inpaint"]
    version: str
    bundle: str
    fingerprint: str
    variant: str
    backend: str
    index: int
    seed: int
    schedule: Schedule
    label: str | None = None
    image_sha256: str | None = None
    mask_sha256: str | None = None
    mask: str | None = None
    family: str = "sundae"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that have a runtime follow the schedule again."""
        return settings_of(self.family, self.schedule)

    def png_info(self) -> PngInfo:
        """The text chunk, for `Image.save(..., pnginfo=...)`."""
        values = asdict(self)
        del values["schedule"]
        values.update(self.settings)
        info = PngInfo()
        info.add_text(KEY, json.dumps(values, allow_nan=False))
        return info


def read(path: str | os.PathLike[str]) -> Provenance:
    """Read how the image in a PNG file was made.

    Raises:
        InputError: no readable image, no such text in it, or text that `Provenance` does not describe.
    """
    with opened(path) as image:
        text = image.text.get(KEY) if isinstance(image, PngImageFile) else None
    if text is None:
        raise InputError(f"{path} does not say how it was made: only PNG files that sundae-rt wrote, unchanged, do")
    try:
        return _parse(text)
    except (InputError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its text {KEY!r} is malformed: {error}") from error


def _parse(text: str) -> Provenance:
    if len(text) > _MAX_CHARACTERS:
        raise InputError(f"{len(text)} characters are too many")
    values = strict_json(text)
    if not isinstance(values, dict):
        raise InputError(f"it must be a JSON object, not {shown(values)}")
    family = one_of("family", values.get("family", "sundae"), tuple(FAMILIES))
    settings = FAMILIES[family].settings
    names = {field.name for field in fields(Provenance)} - {"schedule"} | {*settings}
    if differing := sorted(name for name in names ^ values.keys() if name not in names.intersection(_LATER)):
        state = "lacks" if differing[0] in names else "has the unknown field"
        raise InputError(f"it {state} {shown(differing[0])}")
    if values["command"] not in ("generate", "inpaint"):
        raise InputError(f"command must be 'generate' or 'inpaint', not {shown(values['command'])}")
    for name in ("version", "bundle", "variant", "backend", *_DIGESTS, "label", "mask"):
        if values.get(name) is None and name in _OPTIONAL:
            continue
        if not isinstance(values[name], str):
            raise InputError(f"{name} must be a string, not {shown(values[name])}")
        if name in _DIGESTS and not _SHA256.fullmatch(values[name]):
            raise InputError(f"{name} must be 64 lower-case hex digits, not {shown(values[name])}")
    whole("index", values["index"], 0, MAX_SEED)
    whole("seed", values["seed"], 0, MAX_SEED)
    schedule = Schedule.from_settings({name: values.pop(name) for name in settings if name in values})
    return Provenance(schedule=schedule, **values)
