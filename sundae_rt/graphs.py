"""The graphs of a bundle on a backend: which variant of each runs, loaded when first needed, outputs checked."""

import threading
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sundae_rt.backends import Backend, Graph
from sundae_rt.bundle import Bundle
from sundae_rt.errors import BackendError, BundleError, SundaeError, shown
from sundae_rt.manifest import Manifest

Arrays = dict[str, NDArray[Any]]


class Graphs:
    """A bundle's graphs. Thread-safe.

    Attributes:
        variant: precision variant of the denoiser (of the first graph, where there is no denoiser).

    Raises:
        BundleError: the bundle has no such variant.
        BackendError: the variant requires what the backend does not provide.
    """

    def __init__(self, bundle: Bundle, backend: Backend, variant: str) -> None:
        self._bundle = bundle
        self._backend = backend
        held = bundle.manifest.graphs
        main = "denoiser" if "denoiser" in held else next(iter(held))
        if variant not in ("auto", *held[main]):
            raise BundleError(
                f"bundle {bundle.manifest.name!r}: {main} has no variant {shown(variant)} "
                f"(it has {', '.join(held[main])})"
            )
        self._variants = {graph: _chosen(bundle.manifest, graph, backend, variant) for graph in held}
        self.variant: Final = self._variants[main]
        self._shapes = _output_shapes(bundle.manifest)
        self._loaded: dict[str, Graph] = {}
        self._closed = False
        self._lock = threading.Lock()

    def require(self, *names: str) -> None:
        """Load these graphs, unless they are.

        Raises:
            BundleError: the bundle lacks one, or its file is damaged.
            BackendError: the backend cannot load one.
        """
        for name in names:
            self._graph(name)

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run a graph on arrays whose first axis is the batch, as one batch.

        Raises:
            BundleError: as `require`; or the graph's outputs are not what the manifest lets one expect.
            BackendError: as `require`; or running it failed.
        """
        count = len(next(iter(inputs.values())))
        outputs = self._graph(name).run(inputs)
        for output, (shape, dtype) in self._shapes[name].items():
            found = outputs.get(output)
            if found is None or found.shape != (count, *shape) or found.dtype != dtype:
                told = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise BundleError(
                    f"bundle {self._bundle.manifest.name!r}: the output {output} of {name} is {told}, where its "
                    f"manifest means {np.dtype(dtype)} {[count, *shape]}: export it again"
                )
        return outputs

    def run_in_batches(self, name: str, inputs: Mapping[str, NDArray[Any]], batch_size: int) -> Arrays:
        """Run a graph as `run` does, at most `batch_size` rows at a time, so that its memory stays bounded."""
        count = len(next(iter(inputs.values())))
        parts = [
            self.run(name, {key: value[start : start + batch_size] for key, value in inputs.items()})
            for start in range(0, count, batch_size)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in self._shapes[name]}

    def close(self) -> None:
        """Let go of every graph; one that is running is freed when it ends."""
        with self._lock:
            self._closed = True
            self._loaded.clear()

    def _graph(self, name: str) -> Graph:
        with self._lock:
            if self._closed:
                raise SundaeError("the runtime is closed")
            if name not in self._loaded:
                self._bundle.variants(name)  # says what is missing
                variant = self._variants[name]
                self._loaded[name] = self._backend.load(self._bundle.read(name, variant), f"{name} ({variant})")
            return self._loaded[name]


def _chosen(manifest: Manifest, graph: str, backend: Backend, variant: str) -> str:
    """The variant that was asked for, where the graph has it; else the first that the backend likes and can run."""
    variants = manifest.graphs[graph]
    candidates = (
        (variant,) if variant in variants else (*(name for name in backend.variants if name in variants), *variants)
    )
    for candidate in candidates:
        if backend.provides.issuperset(variants[candidate].requires):
            return candidate
    missing = sorted(set(variants[candidates[0]].requires) - backend.provides)
    raise BackendError(
        f"the backend {backend.name!r} does not provide {', '.join(missing)}, which the variant {candidates[0]} of "
        f"{graph} requires"
    )


def _output_shapes(manifest: Manifest) -> dict[str, dict[str, tuple[tuple[int, ...], type[np.generic]]]]:
    """Graph -> output -> (shape behind the batch, dtype)."""
    height, width = manifest.latent_grid
    positions = height * width
    codes = ((positions,), np.int32)
    return {
        "denoiser": {"new_codes": codes, "proposal": codes, "confidence": ((positions,), np.float32)},
        "decoder": {"images": ((*(manifest.image_size or ()), 3), np.uint8)},
        "encoder": {"codes": codes},
        "logits": {"logits": ((positions, manifest.vocabulary), np.float32)},
    }
