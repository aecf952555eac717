"""The runtime: a bundle on a backend, ready to generate, inpaint, encode and decode."""

import atexit
import logging
import math
import os
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sundae_rt import engines, inpainting, masks, noise
from sundae_rt.backends import Backend
from sundae_rt.bundle import Bundle
from sundae_rt.choice import choose_backend
from sundae_rt.conditioning import Conditioning, Label, per_image
from sundae_rt.errors import InputError
from sundae_rt.families import FAMILIES
from sundae_rt.graphs import Graphs
from sundae_rt.images import as_rgb
from sundae_rt.sampler import Model, Pool, Request
from sundae_rt.schedule import MAX_GUIDANCE, Schedule, Settings
from sundae_rt.validation import bool_array, real_array, whole, whole_array

Codes = NDArray[np.int32]
Pixels = NDArray[np.uint8]

_log = logging.getLogger("sundae_rt")

# At once, at most: what a decoder or encoder holds grows with the pixels, to gigabytes for a megapixel.
_IMAGES: Final = 8
_PIXELS: Final = 8 * 128 * 128


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One finished image.

    Attributes:
        index: its place in the call that asked for it, from 0.
        seed: its own seed: `generate(n=1, seed=sample.seed, ...)` with the same settings makes it again.
        image: the picture, RGB (from `inpaint` also RGBA, at the input's size).
        codes: int32 [h,w].
        steps: how many steps it took.
        label: its label's name; None for an unlabelled bundle, and from `inpaint` where no label was given (see there).
    """

    index: int
    seed: int
    image: Image.Image
    codes: Codes
    steps: int
    label: str | None


def load(
    bundle: str | os.PathLike[str] = engines.DEFAULT,
    *,
    backend: str = "auto",
    variant: str = "auto",
    threads: int | None = None,
    batch_size: int = 8,
    max_waiting: int = 4096,
) -> "Runtime":
    """Open a bundle for use. Graphs are read and loaded when a call first needs them.

    Args:
        bundle: a folder, a zip file, or the name of a bundle that ships.
        backend: "cpu", "openvino", "cuda", "tensorrt", or "auto", which `sundae_rt.choice` explains.
        variant: precision variant of the denoiser, such as "fp32"; the other graphs use it too where they have it.
            "auto" takes the backend's best for each graph.
        threads: CPU threads; None takes as many as the process may use cores.
        batch_size: images that step together, at most.
        max_waiting: images that may wait for their first step, over all callers; more is a `QueueFullError`.

    Raises:
        BundleError: no such bundle, or one that is damaged or lacks the variant.
        BackendError: the backend is not present, or cannot run the variant.
        InputError: another argument is out of range.
    """
    threads = None if threads is None else whole("threads", threads, 1, 1024)
    opened = Bundle.open(engines.resolve(bundle))
    chosen, variant = choose_backend(opened, backend, variant, threads)
    return Runtime(opened, chosen, variant=variant, batch_size=batch_size, max_waiting=max_waiting)


class Runtime:
    """A bundle on a backend. Thread-safe, and a context manager that closes it; made by `load`.

    Every method raises `BundleError` if the bundle lacks a graph that it needs or the graph's file is damaged,
    `BackendError` if running it fails, and `InputError` if an argument is out of range. What runs a graph raises
    `SundaeError` after `close`, and in a process that was forked since: there a runtime is loaded anew.

    Attributes:
        manifest: what the bundle is: `.image_size` (H, W), `.latent_grid` (h, w), `.vocabulary`, `.labels`, ...
        fingerprint: SHA-256 of the bundle's manifest, hex: names the bundle beyond doubt.
        backend: name of the backend that runs it.
        variant: precision variant of the denoiser (of the first graph, where there is no denoiser).
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, *, variant: str = "auto", batch_size: int = 8, max_waiting: int = 4096
    ) -> None:
        self.manifest: Final = bundle.manifest
        self.fingerprint: Final = bundle.fingerprint
        self.backend: Final = backend.name
        self._graphs = Graphs(bundle, backend, variant)
        self.variant: Final = self._graphs.variant
        self._family = FAMILIES[self.manifest.family](self.manifest.vocabulary)
        self._conditioning = Conditioning(self.manifest)
        self._image_batch = image_batch(self.manifest.image_size)
        self._pool = Pool(
            Model(
                self._family,
                self._conditioning.label_weights,
                self._step,
                self._pixels,
                self._image_batch,
                self._steps if backend.unrolls else None,
            ),
            batch_size=whole("batch_size", batch_size, 1, 2**16),
            max_waiting=whole("max_waiting", max_waiting, 1),
        )
        _open.add(self)

    def generate(self, n: int = 1, *, seed: int = 0, label: Label = None, **settings: Unpack[Settings]) -> list[Sample]:
        """Generate `n` images, in order of index.

        Args:
            n: how many, 1 or more.
            seed: image i has the seed `seed + i`, and depends on it and the settings alone; 0 .. 2**64 - n.
            label: a label's name or id; None draws each image's own, in the shares of the training data.
            settings: see `Settings`.

        Raises:
            QueueFullError: more than `max_waiting` images would wait.
        """
        return _by_index(self.stream(n, seed=seed, label=label, **settings))

    def stream(
        self, n: int = 1, *, seed: int = 0, label: Label = None, **settings: Unpack[Settings]
    ) -> Generator[Sample, None, None]:
        """Generate as `generate` does, yielding each image as it finishes.

        Arguments are checked at once; the images are queued when the first is asked for. Closing the generator, by the
        thread that iterates, cancels what is not finished.

        Raises:
            QueueFullError: more than `max_waiting` images would wait, when the first is asked for.
        """
        everywhere = np.ones(self.manifest.latent_grid, np.bool_)
        label_id = None if label is None else self._conditioning.label_id(label)
        nothing = np.zeros(everywhere.shape, np.int32)
        return self._stream(self._request(n, seed, label_id, settings, everywhere, nothing))

    def inpaint(
        self,
        image: Image.Image | NDArray[Any],
        mask: Image.Image | NDArray[Any],
        n: int = 1,
        *,
        seed: int = 0,
        label: Label = None,
        **settings: Unpack[Settings],
    ) -> list[Sample]:
        """Repaint the white part of `mask` in `image`, in `n` ways; `sundae_rt.inpainting` says how both are fitted.

        Args:
            image: what `images.as_rgb` takes.
            mask: a PIL image, or bool or uint8 [H,W].
            n, seed, settings: as in `generate`.
            label: a label's name or id; None leaves it to what is kept to say what the picture is, where the manifest
                says that there is a null label. Guidance then has nothing to follow and changes nothing, which is
                logged. Other bundles draw each image's own, as in `generate`.

        Returns:
            Samples in order of index, whose images have the input's size and its very pixels where the mask keeps them.

        Raises:
            QueueFullError: more than `max_waiting` images would wait.
        """
        plan = self.plan_inpainting(image, mask)
        for note in plan.notes:
            _log.info("%s", note)
        return _by_index(self.stream_inpainting(plan, n, seed=seed, label=label, **settings))

    def draw_mask(
        self,
        image: Image.Image | NDArray[Any],
        kind: masks.Kind,
        *,
        share: float | None = None,
        size: int | None = None,
        seed: int | None = None,
    ) -> masks.PaperMask:
        """A mask of one of the paper's kinds, whose `pixels` are for `inpaint`; see `sundae_rt.masks`."""
        self._graphs.require("encoder")
        picture = as_rgb(image)
        shape, sides = (picture.height, picture.width), self.manifest.image_size or (0, 0)
        return masks.draw(kind, shape, sides, self.manifest.latent_grid, share=share, size=size, seed=seed)

    def plan_inpainting(self, image: Image.Image | NDArray[Any], mask: Image.Image | NDArray[Any]) -> inpainting.Plan:
        """Fit an image and a mask to the bundle, for `stream_inpainting`; the plan's `notes` say what that took."""
        self._graphs.require("encoder")
        return inpainting.plan(image, mask, self.manifest.image_size or (0, 0), self.manifest.latent_grid)

    def stream_inpainting(
        self, plan: inpainting.Plan, n: int = 1, *, seed: int = 0, label: Label = None, **settings: Unpack[Settings]
    ) -> Generator[Sample, None, None]:
        """Inpaint as `inpaint` does, yielding each picture as it finishes; see `stream` for when what happens."""
        label_id = self._conditioning.null_label if label is None else self._conditioning.label_id(label)
        self.schedule(**settings)  # what is wrong with them is said before the encoder runs
        guidance = settings.get("guidance")
        if label is None and label_id is not None and guidance not in (None, 1):
            _log.warning("a guidance of %g changes nothing without a label to follow: name one", guidance)
        kept = self.encode(plan.model_input[None])[0]
        unknown = (kept >= self.manifest.vocabulary) & ~plan.repaint
        if unknown.any():
            _log.warning(
                "%d of %d kept cells have codes that the prior does not know (%d of %d in the codebook): the prior "
                "makes them anew with the rest; their pixels are kept",
                unknown.sum(),
                (~plan.repaint).sum(),
                self.manifest.vocabulary,
                self.manifest.image_codes,
            )
        plan = replace(plan, repaint=plan.repaint | unknown, kept=plan.kept & ~unknown)
        return self._stream(self._request(n, seed, label_id, settings, plan.repaint, kept), plan.paste)

    def schedule(self, **settings: Unpack[Settings]) -> Schedule:
        """The schedule that a call with these settings follows: the manifest's own where they say nothing.

        Raises:
            InputError: a value out of range, or one that means nothing to the bundle's family.
            TypeError: a setting that there is none.
        """
        known = self._family.settings
        for name, value in settings.items():
            if name not in Schedule.__dataclass_fields__:
                raise TypeError(f"there is no setting {name}: the bundle knows {', '.join(known)}")  # as Python says it
            if value is not None and name not in known:
                raise InputError(
                    f"{name} must be left out: the bundle {self.manifest.name!r} is of the family "
                    f"{self.manifest.family}, whose settings are {', '.join(known)}"
                )
        guidance = settings.get("guidance")
        if guidance is not None:
            self._conditioning.check_guidance(guidance)
        return self.manifest.default_schedule.with_changes(**settings)

    def encode(self, images: NDArray[np.uint8]) -> Codes:
        """Codes of images: uint8 [N,H,W,3] -> int32 [N,h,w], 0 .. `manifest.image_codes` - 1; N is 1 or more."""
        self._graphs.require("encoder")
        shape = (None, *(self.manifest.image_size or ()), 3)
        pixels = whole_array("images", images, shape, 0, 255, np.uint8)
        codes = self._graphs.run_in_batches("encoder", {"images": pixels}, self._image_batch)["codes"]
        return codes.reshape(-1, *self.manifest.latent_grid)

    def decode(self, codes: NDArray[np.integer[Any]]) -> Pixels:
        """Images of codes: int [N,h,w], 0 .. `manifest.image_codes` - 1 -> uint8 [N,H,W,3]; N is 1 or more."""
        self._graphs.require("decoder")
        flat = self._flat(codes, self.manifest.image_codes)
        return self._graphs.run_in_batches("decoder", {"codes": flat}, self._image_batch)["images"]

    def denoise(
        self,
        codes: NDArray[np.integer[Any]],
        temperature: float | NDArray[np.floating[Any]],
        uniform: NDArray[np.floating[Any]],
        update: NDArray[np.bool_],
        label: Label | Sequence[str | int] | NDArray[np.integer[Any]] = None,
        guidance: float | NDArray[np.floating[Any]] | None = None,
    ) -> tuple[Codes, Codes, NDArray[np.float32]]:
        """One raw step of the denoiser on N grids, run as one batch.

        Args:
            codes: int [N,h,w], 0 .. vocabulary - 1; the family "absorbing" has one more, its mask code.
            temperature: >= 0, one for all or [N]; 0 takes the most probable code.
            uniform: float [N,h,w] in [0, 1], picks each new code from the cumulated probabilities.
            update: bool [N,h,w], where a new code is written.
            label: a name or id, or N of them; needed if, and only if, the bundle has labels.
            guidance: from 0 to 1e6, one for all or [N]; None takes the manifest's.

        Returns:
            codes int32 [N,h,w] (the proposal where `update`, else as they came), proposal int32 [N,h,w], and
            confidence float32 [N,h,w], the model's probability of the code that came in.
        """
        flat = self._flat(codes, self._family.input_codes)
        count, grid = len(flat), self.manifest.latent_grid
        conditioning = self._conditioning.label_input(count, label)
        if guidance is not None:
            self._conditioning.check_guidance(guidance)
        if conditioning:
            strength = self.manifest.default_schedule.guidance if guidance is None else guidance
            conditioning["guidance"] = per_image("guidance", strength, count, MAX_GUIDANCE)
        outputs = self._graphs.run(
            "denoiser",
            {
                "codes": flat,
                "temperature": per_image("temperature", temperature, count),
                "uniform": real_array("uniform", uniform, (count, *grid), 0, 1).reshape(count, -1),
                "update": bool_array("update", update, (count, *grid)).reshape(count, -1),
                **conditioning,
            },
        )
        new, proposal, confidence = (
            outputs[name].reshape(count, *grid) for name in ("new_codes", "proposal", "confidence")
        )
        return new, proposal, confidence

    def logits(
        self,
        codes: NDArray[np.integer[Any]],
        label: Label | Sequence[str | int] | NDArray[np.integer[Any]] = None,
    ) -> NDArray[np.float32]:
        """The denoiser's logits, where the bundle has that graph: int [N,h,w], as in `denoise` -> float32 [N,h,w,V]."""
        self._graphs.require("logits")
        flat = self._flat(codes, self._family.input_codes)
        inputs = {"codes": flat, **self._conditioning.label_input(len(flat), label)}
        logits = self._graphs.run_in_batches("logits", inputs, _IMAGES)["logits"]
        return logits.reshape(len(flat), *self.manifest.latent_grid, -1)

    def close(self) -> None:
        """End what is under way, with an error to whoever waits for it, and let the graphs go once none is running."""
        self._pool.close()
        self._graphs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _request(
        self, n: int, seed: int, label: int | None, settings: Settings, editable: NDArray[np.bool_], codes: Codes
    ) -> Request:
        """A checked request for `n` images, whose codes are free where `editable` [h,w] and `codes` [h,w] elsewhere."""
        n = whole("n", n, 1)
        seed = whole("seed", seed, 0, noise.MAX_SEED)
        noise.seeds(seed, n)
        schedule = self.schedule(**settings)
        self._graphs.require("denoiser", "decoder")
        return Request(n, seed, schedule, label, editable.reshape(-1), codes.reshape(-1))

    def _stream(
        self, request: Request, picture: Callable[[Pixels], Image.Image] = Image.fromarray
    ) -> Generator[Sample, None, None]:
        """The samples of a request; `picture` makes an image of decoded pixels."""
        with closing(self._pool.stream(request)) as finished:
            for slot, pixels in finished:
                yield Sample(
                    index=slot.index,
                    seed=slot.seed,
                    image=picture(pixels),
                    codes=slot.codes.reshape(self.manifest.latent_grid),
                    steps=slot.steps,
                    label=self._conditioning.label_name(slot.label),
                )

    def _step(
        self,
        codes: Codes,
        temperature: NDArray[np.float32],
        uniform: NDArray[np.float32],
        label: NDArray[np.int32] | None,
        guidance: NDArray[np.float32],
    ) -> tuple[Codes, NDArray[np.float32]]:
        """What the sampler runs as `Model.denoise`: it writes by its family's rules, so the graph writes nothing."""
        nowhere = np.zeros(codes.shape, np.bool_)
        inputs = {"codes": codes, "temperature": temperature, "uniform": uniform, "update": nowhere}
        outputs = self._graphs.run("denoiser", inputs | _conditions(label, guidance))
        return outputs["proposal"], outputs["confidence"]

    def _steps(
        self,
        codes: Codes,
        temperature: NDArray[np.float32],
        uniform: NDArray[np.float32],
        update: NDArray[np.bool_],
        label: NDArray[np.int32] | None,
        guidance: NDArray[np.float32],
    ) -> Codes:
        """What the sampler runs as `Model.unroll`."""
        each = {"temperature": temperature, "uniform": uniform, "update": update}
        return self._graphs.unroll_denoiser({"codes": codes} | _conditions(label, guidance), each)

    def _pixels(self, codes: Codes) -> Pixels:
        """What the sampler runs as `Model.decode`."""
        return self._graphs.run("decoder", {"codes": codes})["images"]

    def _flat(self, codes: object, count: int) -> Codes:
        """Checked codes, 0 .. count - 1, as int32 [N,T]."""
        grid = whole_array("codes", codes, (None, *self.manifest.latent_grid), 0, count - 1)
        return grid.reshape(len(grid), -1)


_open: weakref.WeakSet[Runtime] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Let no thread be inside a backend's native code while the interpreter goes down."""
    for runtime in list(_open):
        runtime.close()


def image_batch(size: tuple[int, int] | None) -> int:
    """How many images of this size (H, W) are decoded or encoded at once, at most; a megapixel goes one by one."""
    return _IMAGES if size is None else min(_IMAGES, max(1, _PIXELS // math.prod(size)))


def _conditions(label: NDArray[np.int32] | None, guidance: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The inputs of a denoiser that takes labels, beside those that every one takes."""
    return {} if label is None else {"label": label, "guidance": guidance}


def _by_index(samples: Iterable[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.index)
