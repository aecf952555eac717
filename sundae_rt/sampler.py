"""The sampler: a pool of slots that turns requests from any number of callers into images.

A slot is one image on its way: its codes, label, seed and step. One worker thread fills a batch with the slots of all
requests in order of arrival, runs one step on them together (several, where a device can do them alone), retires each
slot as soon as it is finished, and refills.
A second thread decodes finished slots in batches while the first goes on. Either thread lives only while there is work.

All noise comes from a slot's own seed and step (`sundae_rt.noise`), so an image depends on nothing that happens beside
it: not on the batch, the order, or who else asks.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from sundae_rt import noise, unrolling
from sundae_rt.errors import BackendError, QueueFullError, SundaeError
from sundae_rt.families import Family, Step
from sundae_rt.process import Process
from sundae_rt.schedule import Schedule

_MAX_READY = 16  # decoded images that may wait for one slow caller, roughly; the others stay codes until it takes some


@dataclass(slots=True, eq=False)
class Slot:
    """One image on its way.

    Attributes:
        request: whom it belongs to.
        index: its place in the request.
        seed: the request's seed plus `index`.
        label: label id, the null label's included, or None for an unlabelled bundle.
        codes: int32 [T].
        steps: steps taken so far.
        finished: whether the last of them was its last.
    """

    request: "Request"
    index: int
    seed: int
    label: int | None
    codes: NDArray[np.int32]
    steps: int = 0
    finished: bool = False


@dataclass(slots=True, eq=False)
class Request:
    """The images of one call.

    Attributes:
        count: how many.
        seed: seed of the first; image i has `seed + i`.
        schedule: what each step does.
        label: label id of all images; None draws each from its own seed (or stands for an unlabelled bundle).
        editable: bool [T], False where an inpainting keeps a code.
        codes: int32 [T], the codes to keep; used where `editable` is False.
        admitted: how many have left the queue.
        ended: the caller has gone, or was told of a failure: nothing more is to be done.
        results: finished slots with their pixels (uint8 [H,W,3]), or the error that ended the request.
    """

    count: int
    seed: int
    schedule: Schedule
    label: int | None
    editable: NDArray[np.bool_]
    codes: NDArray[np.int32]
    admitted: int = 0
    ended: bool = False
    results: SimpleQueue[tuple[Slot, NDArray[np.uint8]] | BaseException] = field(default_factory=SimpleQueue)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What the sampler needs of a bundle.

    Attributes:
        family: how images start, what a step writes, and when they are finished.
        label_weights: share of each label, or None for an unlabelled bundle.
        denoise: (codes int32 [B,T], temperature f32 [B], uniform f32 [B,T], label int32 [B] or None, guidance f32 [B])
            -> (proposal int32 [B,T], confidence f32 [B,T]).
        decode: codes int32 [B,T] -> images uint8 [B,H,W,3].
        image_batch: images to decode at once, at most.
        unroll: K steps in a row, the first on `codes` and each other on what the one before wrote: (codes, label,
            guidance as above, temperature f32 [K,B], uniform f32 [K,B,T], update bool [K,B,T], where each step writes)
            -> the steps' proposals int32 [K,B,T]; None where every step is to come back to the host.
    """

    family: Family
    label_weights: Sequence[float] | None
    denoise: Callable[..., tuple[NDArray[np.int32], NDArray[np.float32]]]
    decode: Callable[[NDArray[np.int32]], NDArray[np.uint8]]
    image_batch: int
    unroll: Callable[..., NDArray[np.int32]] | None = None


class Pool:
    """The slots of all requests. Thread-safe.

    Args:
        model: what to run.
        batch_size: slots that step together, at most.
        max_waiting: images that may wait for a slot, at most.
    """

    def __init__(self, model: Model, *, batch_size: int, max_waiting: int) -> None:
        self._model = model
        self._batch_size = batch_size
        self._max_waiting = max_waiting
        # Everything below is read and written under the lock, which no garbage-collected stream ever takes.
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._finished: list[Slot] = []
        self._sampler: threading.Thread | None = None
        self._decoder: threading.Thread | None = None
        self._closed = False
        self._process = Process()

    def stream(self, request: Request) -> Generator[tuple[Slot, NDArray[np.uint8]], None, None]:
        """Queue a request and yield its images as they finish: the slot, and its pixels, uint8 [H,W,3].

        Closing the generator, or losing the last reference to it, cancels what is left of the request.

        Raises:
            QueueFullError: more than `max_waiting` images would wait.
            SundaeError: the pool is closed, or was closed meanwhile; or the process was forked since it was made.
            BackendError: a worker failed. Every request that was under way is told; the pool goes on.
        """
        try:
            self._submit(request)
            for _ in range(request.count):
                self._process.check()
                result = request.results.get()
                if isinstance(result, BaseException):
                    raise _for_caller(result) from result
                self._resume_decoding()
                yield result
        finally:
            request.ended = True  # a plain write: this may run in the garbage collector, which must not wait for locks

    def close(self) -> None:
        """End every request with an error, and both threads; waits for the step that is under way."""
        if not self._process.is_this:  # it has neither
            return
        with self._lock:
            self._closed = True
            threads = [thread for thread in (self._sampler, self._decoder) if thread is not None]
        self._fail(SundaeError("the runtime was closed"))
        for thread in threads:
            thread.join()

    def _submit(self, request: Request) -> None:
        self._process.check()
        with self._lock:
            if self._closed:
                raise SundaeError("the runtime is closed")
            waiting = sum(other.count - other.admitted for other in self._requests if not other.ended)
            if waiting + request.count > self._max_waiting:
                later = "try again later, " if request.count <= self._max_waiting else ""
                raise QueueFullError(
                    f"{waiting} images wait and {request.count} more would pass max_waiting ({self._max_waiting}): "
                    f"{later}ask for fewer, or load with a larger max_waiting"
                )
            self._requests.append(request)
            if self._sampler is None:
                self._sampler = _started(self._sample)

    def _resume_decoding(self) -> None:
        """Have finished slots decoded, unless that is being done."""
        with self._lock:
            if self._finished and self._decoder is None:
                self._decoder = _started(self._decode)

    def _sample(self) -> None:
        """The first thread: steps slots until there are none."""
        running: list[Slot] = []
        while True:
            try:
                running = self._refilled(running)
                if not running:
                    return
                self._step(running)
                with self._lock:
                    self._finished += [slot for slot in running if slot.finished]
                self._resume_decoding()
            except BaseException as error:  # whatever it is, somebody waits for it
                self._fail(error)

    def _refilled(self, running: list[Slot]) -> list[Slot]:
        """The slots of the next step: those that go on, and new ones where others have left. None ends the thread."""
        with self._lock:
            self._requests = [request for request in self._requests if not request.ended]
            running = [slot for slot in running if not (slot.finished or slot.request.ended)]
            for request in self._requests:
                while len(running) < self._batch_size and request.admitted < request.count:
                    running.append(self._slot(request, request.admitted))
                    request.admitted += 1
            if not running:
                self._sampler = None
            return running

    def _slot(self, request: Request, index: int) -> Slot:
        seed = request.seed + index
        label = request.label
        if label is None and self._model.label_weights is not None:
            label = noise.label(seed, self._model.label_weights)
        start = self._model.family.start(seed, len(request.codes))
        return Slot(request, index, seed, label, np.where(request.editable, start, request.codes))

    def _step(self, slots: list[Slot]) -> None:
        """One step of every slot, or several where the model takes them without the host: see `unrolling`."""
        family, model = self._model.family, self._model
        progress = [(slot.request.schedule, slot.steps) for slot in slots]
        count = 1 if model.unroll is None else unrolling.steps_at_once(family, progress)
        noises = [
            [noise.step(slot.seed, slot.steps + ahead, len(slot.codes)) for slot in slots] for ahead in range(count)
        ]
        draws = [[draw for _, draw in step] for step in noises]
        same = {
            "codes": np.stack([slot.codes for slot in slots]),
            "label": None if slots[0].label is None else np.array([slot.label for slot in slots], np.int32),
            "guidance": np.array([schedule.guidance for schedule, _ in progress], np.float32),
        }
        each = {
            "temperature": np.array(
                [[schedule.temperature_at(taken + ahead) for schedule, taken in progress] for ahead in range(count)],
                np.float32,
            ),
            "uniform": np.array([[uniform for uniform, _ in step] for step in noises]),
        }
        if model.unroll is None or count == 1:
            proposals, confidences = model.denoise(**same, **{name: array[0] for name, array in each.items()})
            self._write(slots, draws[0], proposals, confidences)
            return
        firsts = [_next_step(slot, draw) for slot, draw in zip(slots, draws[0], strict=True)]
        update = [unrolling.updates(family, *one) for one in zip(firsts, zip(*draws, strict=True), strict=True)]
        for step_draws, proposals in zip(draws, model.unroll(**same, **each, update=np.stack(update, 1)), strict=True):
            self._write(slots, step_draws, proposals, None)

    def _write(
        self,
        slots: list[Slot],
        draws: list[NDArray[np.float32]],
        proposals: NDArray[np.int32],
        confidences: NDArray[np.float32] | None,
    ) -> None:
        """What a step's proposals make of the slots that are not finished, by the family's rules."""
        family = self._model.family
        for row, slot in enumerate(slots):
            if slot.finished:  # the device went on for nothing
                continue
            step = _next_step(slot, draws[row])
            written = family.written(step, None if confidences is None else confidences[row])
            slot.codes = np.where(written, proposals[row], step.codes)
            slot.steps += 1
            is_last = slot.steps == step.schedule.steps
            slot.finished = is_last or family.is_finished(step, proposals[row], slot.codes)

    def _decode(self) -> None:
        """The second thread: decodes finished slots until there are none that their callers have room for."""
        while True:
            try:
                slots = self._decodable()
                if not slots:
                    return
                images = self._model.decode(np.stack([slot.codes for slot in slots]))
                for slot, pixels in zip(slots, images, strict=True):
                    slot.request.results.put((slot, pixels))
            except BaseException as error:  # as above
                self._fail(error)

    def _decodable(self) -> list[Slot]:
        """Take the finished slots of the next batch. None ends the thread."""
        with self._lock:
            batch: list[Slot] = []
            later: list[Slot] = []
            for slot in self._finished:
                if not slot.request.ended:
                    has_room = len(batch) < self._model.image_batch and slot.request.results.qsize() < _MAX_READY
                    (batch if has_room else later).append(slot)
            self._finished = later
            if not batch:
                self._decoder = None
            return batch

    def _fail(self, error: BaseException) -> None:
        """End every request that is under way, and tell its caller why."""
        with self._lock:
            for request in self._requests:
                if not request.ended:
                    request.ended = True
                    request.results.put(error)
            self._requests, self._finished = [], []


def _next_step(slot: Slot, draw: NDArray[np.float32]) -> Step:
    return Step(slot.request.schedule, slot.steps, slot.codes, slot.request.editable, draw)


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=f"sundae-rt{work.__name__}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise BackendError(f"cannot start a thread: {error}") from error
    return thread


def _for_caller(error: BaseException) -> SundaeError:
    """An exception of the caller's own: one instance must not be raised in several threads."""
    if isinstance(error, SundaeError):
        return type(error)(*error.args)
    return BackendError(f"sampling failed: {type(error).__name__}: {' '.join(str(error).split())}")
