"""A graph's engine: from the cache where one is there for exactly this graph and library, else built and kept."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sundae_rt.backends.origin import Origin
from sundae_rt.errors import InputError
from sundae_rt.tensorrt.building import Progress, build
from sundae_rt.tensorrt.cache import Cache, Key, Stored
from sundae_rt.tensorrt.opening import Library
from sundae_rt.tensorrt.profiles import DEFAULT, Profile

_log = logging.getLogger("sundae_rt")


@dataclass(frozen=True, slots=True)
class Obtained:
    """An engine, and how it was come by.

    Attributes:
        data: its bytes.
        path: its file, whether it was there or is new; None where it could not be kept.
        seconds: how long it was built just now; None where the cache had it.
        fault: why it could not be kept, which names the place; else empty.
    """

    data: bytes
    path: Path | None
    seconds: float | None = None
    fault: str = ""


def kept(
    library: Library, origin: Origin, capabilities: Sequence[str], profiles: Sequence[Profile] | None = None
) -> tuple[Stored | None, str]:
    """The engine that the cache has of a graph; or None, and why what is there does not serve. As `obtain`."""
    cache, why = Cache(origin.folders), ""
    for capability in capabilities:
        key = Key.of(origin, library, capability, profiles or DEFAULT)
        for candidate in (key, *(cache.for_other_batches(key) if profiles is None else ())):
            found, reason = cache.read(candidate)
            if found is not None:
                return found, ""
            why = why or reason
    return None, why


def obtain(
    library: Library,
    model: bytes,
    origin: Origin,
    capabilities: Sequence[str],
    profiles: Sequence[Profile] | None = None,
    *,
    folder: Path | None = None,
    why: str = "",
    say: Callable[[str], None] = _log.warning,
    progress: Progress = lambda share: None,
) -> Obtained:
    """The engine of a graph; one that is built and cannot be kept is there for this once.

    Args:
        library: what builds it.
        model: the graph's bytes.
        origin: where the graph comes from.
        capabilities: compute capabilities that will do, best first; what is built is built for the last.
        profiles: batch sizes; None takes an engine for any, and builds for `DEFAULT`.
        folder: holds the file of the weights that are not in `model`, where there is one.
        why: why it is built anew whatever the cache has; empty takes what the cache has.
        say: takes a line when an engine is built, and why the one that was there does not serve.
        progress: as for `building.build`.

    Raises:
        BackendError: as `building.build`.
    """
    if not why:
        found, why = kept(library, origin, capabilities, profiles)
        if found is not None:
            return Obtained(found.data, found.path)
    say(f"building the engine of {origin}, which takes minutes" + (f": {why}" if why else ""))
    target = capabilities[-1] if library.builds_anywhere else None
    sizes = profiles or DEFAULT
    start = time.monotonic()
    engine = build(library, model, str(origin), sizes, capability=target, folder=folder, progress=progress)
    seconds = time.monotonic() - start
    try:
        path = Cache(origin.folders).write(Key.of(origin, library, capabilities[-1], sizes), engine)
    except InputError as error:  # a full disk, a folder that cannot be written
        return Obtained(engine, None, seconds, str(error))
    return Obtained(engine, path, seconds)
