"""A backend without a model, and bundles for it: the runtime's tests need nothing that was trained."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sundae_rt.backends.origin import Origin
from sundae_rt.backends.source import GraphSource
from sundae_rt.bundle import Bundle
from sundae_rt.runtime import Runtime

GRID = (3, 4)
IMAGE = (6, 8)
VOCABULARY = 100
LABELS = ["coast", "desert", "ice"]
ALL_GRAPHS = ("denoiser", "decoder", "encoder", "logits")

Arrays = dict[str, np.ndarray]


def manifest(**changes: Any) -> dict[str, Any]:
    """The JSON of a valid manifest, with some fields changed; the value `...` leaves a field out."""
    values = {
        "format_version": 1,
        "family": "sundae",
        "name": "fake",
        "image_size": list(IMAGE),
        "latent_grid": list(GRID),
        "vocabulary": VOCABULARY,
        "codebook_size": None,
        "labels": None,
        "label_weights": None,
        "null_label": None,
        "default_schedule": {
            "steps": 6,
            "temperature": [1.0, 0.5],
            "proportion": [1.0, 0.5],
            "min_steps": 3,
            "guidance": 1.0,
            "stop": "proposal",
            "order": "uniform",
        },
        "graphs": {graph: {"fp32": entry(graph)} for graph in ALL_GRAPHS},
        "checks": {},
        "provenance": {},
    }
    values.update(changes)
    return {key: value for key, value in values.items() if value is not ...}


def entry(graph: str, *requires: str, content: str | None = None) -> dict[str, Any]:
    """The manifest's entry of a graph's file, which holds `content`, or else the graph's name."""
    digest = hashlib.sha256((content or graph).encode()).hexdigest()
    return {"file": f"{graph}.onnx", "sha256": digest, "requires": list(requires)}


def write_bundle(folder: Path, *, holds: tuple[str, ...] = ALL_GRAPHS, **changes: Any) -> Path:
    """A bundle whose graph files hold what `FakeBackend` needs: their graph's name, and whether it takes labels."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "" if changes.get("labels") is None else " with labels"
    contents = {graph: graph + kind for graph in holds}
    graphs = {graph: {"fp32": entry(graph, content=content)} for graph, content in contents.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest(**{"graphs": graphs, **changes})))
    for graph, content in contents.items():
        (folder / f"{graph}.onnx").write_text(content)
    return folder


def absorbing(**changes: Any) -> dict[str, Any]:
    """The changes that make a manifest one of the family `absorbing`."""
    schedule = {"steps": 6, "temperature": [1.0, 0.5], "guidance": 1.0}
    return {"family": "absorbing", "default_schedule": schedule, **changes}


def labelled(**changes: Any) -> dict[str, Any]:
    """The changes that make a manifest a labelled one."""
    return {"labels": LABELS, "label_weights": [0.5, 0.25, 0.25], **changes}


def fake_runtime(folder: Path, backend: FakeBackend | None = None, **options: Any) -> Runtime:
    """A runtime on a fake bundle; `options` are those of `write_bundle` and `Runtime`."""
    chosen = {key: options.pop(key) for key in ("variant", "batch_size", "max_waiting") if key in options}
    return Runtime(Bundle.open(write_bundle(folder, **options)), backend or FakeBackend(), **chosen)


def wander(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """A denoiser's proposal that never settles: each code depends on its neighbour, the noise and all settings."""
    spread = np.floor(inputs["uniform"] * (1 + 20 * inputs["temperature"][:, None])).astype(np.int32)
    extra = inputs.get("label", np.zeros(len(spread), np.int32)) * 7
    return (np.roll(inputs["codes"], 1, axis=1) + spread + extra[:, None].astype(np.int32)) % VOCABULARY


def settle(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """A denoiser's proposal that is always the same, so that a full update changes nothing from the second step on."""
    return np.broadcast_to(np.arange(inputs["codes"].shape[1], dtype=np.int32), inputs["codes"].shape).copy()


class FakeBackend:
    """See `sundae_rt.backends.Backend`. Code c is drawn as a block of the colour (c, 255 - c, 7), and read back so.

    Attributes:
        calls: (graph, number of rows) of each run, in order.
    """

    name = "fake"
    variants = ("fp32",)
    provides = frozenset({"fake"})
    derives: Mapping[str, str] = {}
    unrolls = False

    def __init__(self, propose: Callable[[Mapping[str, np.ndarray]], np.ndarray] = wander) -> None:
        self.propose = propose
        self.calls: list[tuple[str, int]] = []
        self.before_run: Callable[[str], None] = lambda graph: None
        self._lock = threading.Lock()

    def load(self, source: GraphSource) -> FakeGraph:
        graph, _, kind = source.model.decode().partition(" ")
        return FakeGraph(self, graph, takes_labels=kind == "with labels")

    def is_built(self, origin: Origin) -> bool:
        return True

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        with self._lock:
            self.calls.append((graph, len(next(iter(inputs.values())))))
        self.before_run(graph)
        return getattr(self, f"_{graph}")(inputs)

    def _denoiser(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        proposal = np.where(inputs["uniform"] > 1, VOCABULARY - 1, self.propose(inputs))
        codes = np.where(inputs["update"], proposal, inputs["codes"])
        return {"new_codes": codes, "proposal": proposal, "confidence": inputs["uniform"]}

    def _decoder(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        codes = inputs["codes"].reshape(-1, *GRID).astype(np.uint8)
        blocks = codes.repeat(IMAGE[0] // GRID[0], axis=1).repeat(IMAGE[1] // GRID[1], axis=2)
        return {"images": np.stack([blocks, 255 - blocks, np.full_like(blocks, 7)], axis=-1)}

    def _encoder(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        red = inputs["images"][:, :: IMAGE[0] // GRID[0], :: IMAGE[1] // GRID[1], 0]
        return {"codes": red.reshape(len(red), -1).astype(np.int32) % VOCABULARY}

    def _logits(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        return {"logits": np.eye(VOCABULARY, dtype=np.float32)[inputs["codes"]]}


class FakeGraph:
    """See `sundae_rt.backends.Graph`."""

    def __init__(self, backend: FakeBackend, graph: str, takes_labels: bool) -> None:
        self._backend = backend
        self._graph = graph
        codes = GRID[0] * GRID[1]
        shapes: dict[str, dict[str, tuple[int | None, ...]]] = {
            "denoiser": {"codes": (codes,), "temperature": (), "uniform": (codes,), "update": (codes,)},
            "decoder": {"codes": (codes,)},
            "encoder": {"images": (*IMAGE, 3)},
            "logits": {"codes": (None,)},
        }
        conditions = {"denoiser": ("label", "guidance"), "logits": ("label",)} if takes_labels else {}
        self.inputs = shapes[graph] | dict.fromkeys(conditions.get(graph, ()), ())

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        assert set(inputs) == set(self.inputs)
        return self._backend.run(self._graph, inputs)


def grids(count: int, seed: int = 0) -> np.ndarray:
    """Random code grids of a bundle without a model, int32 `[count, *GRID]`."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, (count, *GRID), dtype=np.int32)


ONE_STEP: dict[str, Any] = {
    "codes": np.zeros((2, *GRID), np.int32),
    "temperature": 1.0,
    "uniform": np.zeros((2, *GRID)),
    "update": np.ones((2, *GRID), bool),
}
"""What `Runtime.denoise` takes for one step of one image."""
