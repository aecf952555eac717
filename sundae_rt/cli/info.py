"""`sundae-rt info`: what a bundle is and what runs it here, for people and for machines."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sundae_rt.cli.interrupts import held_back

if TYPE_CHECKING:
    from sundae_rt.bundle import Bundle


@click.command("info", short_help="Say what a bundle is, and what runs it here.")
@click.argument("bundle", metavar="[NAME|PATH]", required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(bundle: str | None, as_json: bool) -> None:
    """Say what a bundle holds, whether its files are intact, and what runs it here.

    Without a bundle, say what this machine has: devices, libraries, backends, and how to install what is missing.
    """
    with held_back():
        from sundae_rt import engines
        from sundae_rt.bundle import Bundle
        from sundae_rt.cli import machine
        from sundae_rt.errors import BundleError

    opened = None if bundle is None else Bundle.open(engines.resolve(bundle))
    facts = {} if opened is None else _facts(opened)
    facts |= {"machine": machine.machine(), "backends": machine.backends()}
    if opened is not None:
        facts["runs"] = machine.runs(opened)
    told = [*(() if opened is None else _lines(facts)), *machine.lines(facts)]
    click.echo(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else "\n".join(told))
    for variants in facts.get("graphs", {}).values():
        for graph in variants.values():
            if graph["fault"] is not None:
                raise BundleError(graph["fault"])


def _facts(bundle: "Bundle") -> dict[str, Any]:
    from sundae_rt.families import settings_of

    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "path": str(bundle.path),
        "fingerprint": bundle.fingerprint,
        "family": manifest.family,
        "format_version": manifest.format_version,
        "image_size": manifest.image_size,
        "latent_grid": manifest.latent_grid,
        "vocabulary": manifest.vocabulary,
        "labels": manifest.labels,
        "label_weights": manifest.label_weights,
        "guidance": manifest.can_guide,
        "default_schedule": settings_of(manifest.family, manifest.default_schedule),
        "graphs": {
            graph: {variant: _graph(bundle, graph, variant) for variant in variants}
            for graph, variants in manifest.graphs.items()
        },
        "checks": manifest.checks,
        "provenance": manifest.provenance,
    }


def _graph(bundle: "Bundle", graph: str, variant: str) -> dict[str, Any]:
    """A graph's file as the manifest has it, its size with that of its data, and what is wrong with them (`fault`)."""
    from sundae_rt.choice import Variant
    from sundae_rt.errors import BundleError
    from sundae_rt.graphs import graph_source

    file, size, fault = bundle.manifest.graphs[graph][variant], None, None
    try:
        size = bundle.size(graph, variant)
        with graph_source(bundle, graph, Variant(variant, variant, file)):
            pass
    except BundleError as error:
        fault = str(error)
    entry = {key: value for key, value in asdict(file).items() if value is not None}
    return {**entry, "bytes": size, "fault": fault}


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts for people."""
    yield f"{facts['name']} ({facts['family']}, format version {facts['format_version']})"
    yield f"  path         {Path(facts['path']).resolve()}"
    yield f"  fingerprint  {facts['fingerprint']}"
    size = "no images" if facts["image_size"] is None else f"images of {_size(facts['image_size'])} pixels"
    yield f"  makes        {size} from {_size(facts['latent_grid'])} codes, each one of {facts['vocabulary']}"
    if facts["labels"] is not None:
        weights = facts["label_weights"] or [1 / len(facts["labels"])] * len(facts["labels"])
        shares = (f"{label} {weight:.0%}" for label, weight in zip(facts["labels"], weights, strict=True))
        yield f"  labels       {', '.join(shares)}"
        yield f"  guidance     {'any' if facts['guidance'] else 'none: the model knows no null label'}"
    settings = (f"{name} {_setting(value)}" for name, value in facts["default_schedule"].items())
    yield f"  by default   {', '.join(settings)}"
    yield "graphs"
    for graph, variants in facts["graphs"].items():
        for variant, file in variants.items():
            size = "" if file["bytes"] is None else f"{file['bytes'] / 1e6:.2f} MB"
            state = "intact" if file["fault"] is None else "NOT INTACT"
            needs = f", needs {', '.join(file['requires'])}" if file["requires"] else ""
            yield f"  {graph:<9} {variant:<5} {file['file']}  {size}  {state}{needs}"
    for section in ("checks", "provenance"):
        if facts[section]:
            yield section
            yield from _nested(facts[section], "  ")


def _nested(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_text(key)}"
            yield from _nested(value, indent + "  ")
        else:
            yield f"{indent}{_text(key)}: {_text(value)}"


def _text(value: Any) -> str:
    """A value of free JSON on one line, in which nothing can move the terminal's cursor."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _setting(value: Any) -> str:
    """A value of the default schedule: a pair from first to last step, a number, or a word."""
    if isinstance(value, tuple):
        return " to ".join(_setting(end) for end in value)
    return value if isinstance(value, str) else f"{value:g}"


def _size(height_and_width: tuple[int, int]) -> str:
    height, width = height_and_width
    return f"{width}x{height}"
