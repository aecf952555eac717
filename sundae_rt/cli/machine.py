"""What `sundae-rt info` says of this machine: devices, libraries, backends, and what would run a bundle."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sundae_rt.cli.interrupts import held_back

if TYPE_CHECKING:
    from sundae_rt.bundle import Bundle


def machine() -> dict[str, Any]:
    """Cores, GPUs and libraries; what is missing is a line that says how to get it."""
    from sundae_rt.backends.cores import available_cores

    return {
        "cores": available_cores(),
        "gpus": _gpus(),
        "libraries": {"ONNX Runtime": _onnxruntime(), "TensorRT": _tensorrt()},
    }


def backends() -> dict[str, str | None]:
    """Each backend, and why it cannot run here (None if it can)."""
    from sundae_rt.backends import names, open_backend
    from sundae_rt.errors import BackendError

    found: dict[str, str | None] = {}
    for name in names():
        try:
            with held_back():
                open_backend(name)
            found[name] = None
        except BackendError as error:
            found[name] = str(error)
    return found


def runs(bundle: "Bundle") -> dict[str, dict[str, str | None]]:
    """What `auto` would run each graph on: backend, variant, and `fault`, why it would not run (None if it would).

    Graphs are really loaded.
    """
    from sundae_rt.choice import choose_backend, choose_variant
    from sundae_rt.errors import SundaeError
    from sundae_rt.graphs import graph_source

    try:
        with held_back():
            backend, wanted = choose_backend(bundle, "auto", "auto", None)
    except SundaeError as error:
        return {graph: {"backend": None, "variant": None, "fault": str(error)} for graph in bundle.manifest.graphs}
    found: dict[str, dict[str, str | None]] = {}
    for graph in bundle.manifest.graphs:
        entry: dict[str, str | None] = {"backend": backend.name, "variant": None, "fault": None}
        found[graph] = entry
        try:
            variant = choose_variant(bundle.manifest, graph, backend, wanted)
            entry["variant"] = variant.name
            with held_back(), graph_source(bundle, graph, variant) as source:
                backend.load(source)
        except SundaeError as error:
            entry["fault"] = str(error)
    return found


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts for people: those of `machine`, of `backends`, and where there is a bundle of `runs`."""
    yield "this machine"
    yield f"  CPU           {facts['machine']['cores']} cores for this process"
    gpus = facts["machine"]["gpus"]
    for gpu in [gpus] if isinstance(gpus, str) else gpus:
        yield f"  GPU           {gpu}"
    for name, state in facts["machine"]["libraries"].items():
        yield f"  {name:<13} {state}"
    yield "backends here"
    for name, fault in facts["backends"].items():
        yield f"  {name:<9} {'present' if fault is None else fault.removeprefix(f'{name}: ')}"
    if "runs" in facts:
        yield "what auto would run here"
        for graph, run in facts["runs"].items():
            state = f"{run['backend']}, {run['variant']}" if run["fault"] is None else f"NOT: {run['fault']}"
            yield f"  {graph:<9} {state}"


def _gpus() -> list[str] | str:
    from sundae_rt.backends.driver import devices, load_library
    from sundae_rt.errors import BackendError

    try:
        return [str(device) for device in devices(load_library())]
    except BackendError as error:
        return f"none: {error}"


def _onnxruntime() -> str:
    from sundae_rt.backends import installation

    with held_back():
        found = installation.version_and_providers()
    return "; ".join(part for part in (found, installation.fault()) if part)


def _tensorrt() -> str:
    from sundae_rt.errors import BackendError
    from sundae_rt.tensorrt.opening import open_library

    try:
        with held_back():
            library = open_library()
    except BackendError as error:
        return str(error)
    return f"{library.name} {library.version}" + (", which builds without a GPU" if library.builds_anywhere else "")
