"""What `auto` means: which backend runs a bundle, and which variant of each of its graphs.

1. The fastest of what `sundae-rt bench` timed for this bundle on this machine, where it did (`backends.timings`).
2. Else the first backend, in the order of `backends.names()`, that is present and is there for one of the variants that
   the bundle's denoiser has or that it derives. OpenVINO is there for 8-bit and bf16 work on processors that are
   fast at it; in fp32 ONNX Runtime is as fast or faster, so on others `cpu` is taken.
3. Of the variants the first in the backend's own order, for each graph.

A variant that is asked for by name narrows all three to backends that can run it. TensorRT is taken only with variants
whose engines are all built: to build them takes minutes, which only who asks for it by name is made to wait. What was
taken, and what was passed over and why, is in the log of `sundae_rt` (level INFO).
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sundae_rt.backends import Backend, names, open_backend, timings
from sundae_rt.bundle import Bundle
from sundae_rt.errors import BackendError, BundleError, shown
from sundae_rt.manifest import GraphFile, Manifest
from sundae_rt.validation import one_of

_log = logging.getLogger("sundae_rt")

# The nearest code hangs on small differences, which bf16 loses: it found 93 % of the codes that fp32 finds (earth).
_NEVER_DERIVED: Final = "encoder"


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of a graph as a backend can run it.

    Attributes:
        name: its name.
        source: the variant whose file it is: its own name, or the one that it is derived from.
        file: that file.
    """

    name: str
    source: str
    file: GraphFile

    @property
    def derived(self) -> str | None:
        """Its name, where the backend derives it."""
        return None if self.name == self.source else self.name


def main_graph(manifest: Manifest) -> str:
    """The graph whose variant is called a runtime's: the denoiser, or the first where there is none."""
    return "denoiser" if "denoiser" in manifest.graphs else next(iter(manifest.graphs))


def variants(manifest: Manifest, graph: str, backend: Backend) -> Mapping[str, Variant]:
    """What there is of a graph for a backend, by name: what the bundle holds, and what the backend derives from it.

    A variant that it holds in a file of its own is not derived, unless that file is for other backends; a graph that is
    never derived has no such variant then.
    """
    held = {name: Variant(name, name, file) for name, file in manifest.graphs[graph].items()}
    derives = backend.derives.items()
    derived = {name: Variant(name, source, held[source].file) for name, source in derives if source in held}
    own = {name: one for name, one in held.items() if name not in derived or _runs(backend, one)}
    return own if graph == _NEVER_DERIVED else derived | own


def choose_variant(manifest: Manifest, graph: str, backend: Backend, wanted: str) -> Variant:
    """The variant of a graph that was asked for, where there is one; else the first that the backend likes and can run.

    The main graph comes in the variant that was asked for, or not at all; the others where they have it and it runs.

    Args:
        manifest: the bundle's.
        graph: one that the bundle holds.
        backend: what shall run it.
        wanted: a variant's name, or "auto".

    Raises:
        BundleError: it is the main graph, and has no such variant.
        BackendError: the variant requires what the backend does not provide.
    """
    known = variants(manifest, graph, backend)
    if graph == main_graph(manifest) and wanted not in ("auto", *known):
        raise BundleError(
            f"bundle {manifest.name!r}: {graph} has no variant {shown(wanted)} (it has {', '.join(known)})"
        )
    others = [name for name in (*backend.variants, *manifest.graphs[graph]) if name in known]
    candidates = [wanted] if wanted in known else []
    if graph != main_graph(manifest) or not candidates:
        candidates += others
    for candidate in candidates:
        if _runs(backend, known[candidate]):
            return known[candidate]
    first = known[candidates[0]]
    raise BackendError(
        f"the backend {backend.name!r} does not provide {', '.join(missing(backend, first.file))}, which the variant "
        f"{first.name} of {graph} requires"
    )


def choose_backend(bundle: Bundle, name: str, variant: str, threads: int | None) -> tuple[Backend, str]:
    """Open the backend that shall run a bundle, and say which variant it shall run ("auto" for the rule above).

    Args:
        bundle: what it shall run.
        name: one of `backends.names()`, or "auto".
        variant: a variant's name, or "auto".
        threads: threads for what runs on the CPU; None takes as many as the process may use cores.

    Raises:
        InputError: an unknown name.
        BackendError: the backend is not present; the message says what is missing. Or none is.
    """
    one_of("backend", name, ("auto", *names()))
    known = [
        timing
        for timing in timings.recall(bundle.fingerprint, threads)
        if name in ("auto", timing.backend) and variant in ("auto", timing.variant)
    ]
    if name != "auto":
        backend = open_backend(name, threads)
        best = next((timing.variant for timing in known if _can_run(bundle, backend, timing.variant)), "auto")
        return backend, best if variant == "auto" else variant
    for timing in known:
        try:
            backend = open_backend(timing.backend, threads)
        except BackendError as error:
            _log.info("%s, which was the fastest, is no longer present: %s", timing.backend, error)
            continue
        if not _can_run(bundle, backend, timing.variant):
            continue
        if fault := _fault(bundle, backend, timing.variant):
            _log.info("%s, which was the fastest, is passed over: %s", timing.backend, fault)
        else:
            _log.info(
                "auto picked the backend %s and the variant %s, the fastest when timed (%.4g s an image)",
                timing.backend,
                timing.variant,
                timing.seconds,
            )
            return backend, timing.variant
    return _by_rule(bundle, variant, threads)


def unbuilt(bundle: Bundle, backend: Backend, variant: str) -> str | None:
    """Why loading a bundle in a variant would take a backend minutes, with the remedy; None where it takes none.

    Raises:
        BackendError: it cannot run one of the graphs.
    """
    chosen = {graph: choose_variant(bundle.manifest, graph, backend, variant) for graph in bundle.manifest.graphs}
    if all(backend.is_built(bundle.origin(graph, one.source)) for graph, one in chosen.items()):
        return None
    return f"no engine is built: sundae-rt build --bundle {bundle.path}"


def runnable(manifest: Manifest, backend: Backend) -> Iterator[str]:
    """The variants of the main graph that a backend can run, for whoever tries them all."""
    for name, variant in variants(manifest, main_graph(manifest), backend).items():
        if _runs(backend, variant):
            yield name


def _by_rule(bundle: Bundle, variant: str, threads: int | None) -> tuple[Backend, str]:
    reasons, others = [], []
    for name in names():
        try:
            backend = open_backend(name, threads)
        except BackendError as error:
            reasons.append(f"{name}: {str(error).removeprefix(f'{name}: ')}")
            continue
        liked = [one for one in backend.variants if variant in ("auto", one) and _can_run(bundle, backend, one)]
        # "auto" is the best variant of each graph; where engines lack for that, another variant may have them.
        wanted = ["auto", *liked] if liked and variant == "auto" else liked
        faults = []
        for one in wanted:
            if (fault := _fault(bundle, backend, one)) is None:
                _say(backend, reasons)
                return backend, one
            faults.append(fault)
        if not faults:
            others.append(backend)
        reasons.append(f"{name}: {faults[0] if faults else _unfit(bundle.manifest, backend, variant)}")
    # None is there for what is asked for; one that can run it does, and else the last says why it does not.
    for backend in others:
        if _can_run(bundle, backend, variant) and _fault(bundle, backend, variant) is None:
            _say(backend, reasons)
            return backend, variant
    if not others:
        raise BackendError(f"no backend is there to take: {'; '.join(reasons)}")
    _say(others[-1], reasons)
    return others[-1], variant


def _fault(bundle: Bundle, backend: Backend, variant: str) -> str | None:
    """Why `auto` passes over a backend: a graph that it cannot run, or engines that are not built; None if neither."""
    try:
        return unbuilt(bundle, backend, variant)
    except BackendError as error:
        return str(error)


def _say(backend: Backend, reasons: list[str]) -> None:
    _log.info("auto picked the backend %s%s", backend.name, "".join(f"; {reason}" for reason in reasons))


def _can_run(bundle: Bundle, backend: Backend, variant: str) -> bool:
    known = variants(bundle.manifest, main_graph(bundle.manifest), backend)
    return variant in known and _runs(backend, known[variant])


def _runs(backend: Backend, variant: Variant) -> bool:
    return not missing(backend, variant.file)


def missing(backend: Backend, file: GraphFile) -> list[str]:
    """What a graph's file requires and a backend does not provide."""
    return sorted(set(file.requires) - backend.provides)


def _unfit(manifest: Manifest, backend: Backend, variant: str) -> str:
    if variant != "auto":
        return f"not there for the variant {shown(variant)}"
    if not backend.variants:
        return "no faster than the others on this processor"
    return f"{manifest.name} has none of its variants ({', '.join(backend.variants)})"
