"""What `sundae-rt bench` measured on this machine, kept for `auto` in a small file in the user's cache folder.

An entry belongs to one bundle, processor, set of GPUs with their driver, number of threads and set of library versions;
when one of them changes, it is as if it were not there. The file is a convenience: one that is missing, damaged or
unreadable is passed over with a line in the log, and never an error.
"""

import json
import logging
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from sundae_rt.backends import driver
from sundae_rt.backends.cores import available_cores
from sundae_rt.backends.processor import instructions, processor_name
from sundae_rt.files import replacing, user_cache

_log = logging.getLogger("sundae_rt")

_LIBRARIES: Final = ("sundae-rt", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast a backend runs a variant of a bundle.

    Attributes:
        backend: its name.
        variant: of the bundle's denoiser.
        seconds: for one image by the bundle's own schedule, in a full batch.
    """

    backend: str
    variant: str
    seconds: float


def path() -> Path:
    """The file; it need not exist."""
    return user_cache() / "timings.json"


def remember(fingerprint: str, threads: int | None, timings: Sequence[Timing]) -> None:
    """Keep the timings of a bundle in place of earlier ones; an empty sequence forgets them.

    Raises:
        InputError: the file cannot be written.
    """
    here = _key(fingerprint, threads)
    # Those of other versions of the libraries will never be asked for again; those of another machine may.
    entries = {key: entry for key, entry in _read().items() if json.loads(key)[:-1] != json.loads(here)[:-1]}
    if timings:
        entries[here] = [asdict(timing) for timing in timings]
    with replacing(path()) as temporary:
        temporary.write_text(json.dumps({"format": _FORMAT, "entries": entries}, indent=1) + "\n", encoding="utf-8")


def recall(fingerprint: str, threads: int | None) -> list[Timing]:
    """The timings of a bundle on this machine, the fastest first; none where it was not timed."""
    entries = {key: entry for key, entry in _read().items() if json.loads(key)[0] == fingerprint}
    if not entries:
        return []  # and no driver is asked for its GPUs
    found = [Timing(**entry) for entry in entries.get(_key(fingerprint, threads), ())]
    if not found:
        _log.info("the timings in %s are of another processor, GPU, number of threads or version", path())
    return sorted(found, key=lambda timing: timing.seconds)


def _key(fingerprint: str, threads: int | None) -> str:
    """What timings hold for, as JSON text; the first of it is the bundle."""
    versions = {}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    processor = [processor_name(), platform.machine(), *sorted(instructions())]
    return json.dumps([fingerprint, processor, driver.seen(), threads or available_cores(), versions])


def _read() -> dict[str, list[dict[str, Any]]]:
    """The file's entries; none where it is not there or is not right."""
    try:
        values = json.loads(path().read_bytes())
        if values["format"] != _FORMAT:
            raise ValueError(f"its format is {values['format']}, not {_FORMAT}")
        entries: dict[str, list[dict[str, Any]]] = values["entries"]
        for key, timings in entries.items():
            _check(json.loads(key)[0], timings)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        _log.info("passed over %s, where timings would be: %s", _shown_path(), " ".join(str(error).split()))
        return {}
    return entries


def _check(fingerprint: object, timings: object) -> None:
    """Refuse what is no entry of ours."""
    if not isinstance(fingerprint, str) or not isinstance(timings, list):
        raise ValueError("an entry is not a list of timings")
    for timing in timings:
        if not isinstance(timing, dict):
            raise ValueError(f"{timing!r} is no timing")
        made = Timing(**timing)
        is_named = isinstance(made.backend, str) and isinstance(made.variant, str)
        if not is_named or not isinstance(made.seconds, float) or not 0 < made.seconds < float("inf"):
            raise ValueError(f"{timing!r} is no timing")


def _shown_path() -> str:
    try:
        return str(path())
    except RuntimeError:  # there is no home folder
        return "the cache folder"
