"""The Python interface, on a backend without a model."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sundae_rt
from fakes import GRID, IMAGE, LABELS, ONE_STEP, FakeBackend, fake_runtime, grids, labelled, settle, wander
from sundae_rt import BackendError, BundleError, InputError, QueueFullError, Runtime, SundaeError, noise
from sundae_rt.families import settings_of
from sundae_rt.schedule import Schedule, Settings

# What it says of itself


def test_it_says_what_it_runs(runtime: Runtime) -> None:
    assert runtime.manifest.latent_grid == GRID
    assert (runtime.backend, runtime.variant) == ("fake", "fp32")
    assert len(runtime.fingerprint) == 64


def test_the_schedule_is_the_manifests_with_what_was_given(runtime: Runtime) -> None:
    assert runtime.schedule() == Schedule(6, (1.0, 0.5), (1.0, 0.5), 3, 1.0)
    assert runtime.schedule(steps=2, temperature=0.0) == Schedule(2, (0.0, 0.0), (1.0, 0.5), 2, 1.0)


# Generating


def test_samples_come_by_index(runtime: Runtime) -> None:
    samples = runtime.generate(n=10, seed=40)
    assert [sample.index for sample in samples] == list(range(10))
    assert [sample.seed for sample in samples] == list(range(40, 50))
    for sample in samples:
        assert sample.codes.shape == GRID
        assert sample.codes.dtype == np.int32
        assert sample.image.size == (IMAGE[1], IMAGE[0])
        assert np.array_equal(runtime.encode(np.asarray(sample.image)[None])[0], sample.codes)
        assert sample.steps == 6
        assert sample.label is None


def test_a_sample_is_made_again_from_its_seed(runtime: Runtime) -> None:
    fifth = runtime.generate(n=8, seed=3)[5]
    (again,) = runtime.generate(seed=fifth.seed)
    assert np.array_equal(again.codes, fifth.codes)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_changes_no_image(runtime: Runtime, tmp_path: Path, batch_size: int) -> None:
    other = fake_runtime(tmp_path / "other", batch_size=batch_size)
    for mine, its in zip(runtime.generate(n=11), other.generate(n=11), strict=True):
        assert np.array_equal(mine.codes, its.codes)
        assert mine.image.tobytes() == its.image.tobytes()


def test_a_stream_yields_each_image_as_it_finishes(runtime: Runtime) -> None:
    stream = runtime.stream(n=20)
    first = next(stream)
    assert sorted([first.index, *(sample.index for sample in stream)]) == list(range(20))


def test_images_stop_by_themselves(tmp_path: Path) -> None:
    runtime = fake_runtime(tmp_path, FakeBackend(settle))
    assert [sample.steps for sample in runtime.generate(n=3, proportion=1.0)] == [3, 3, 3]
    assert [sample.steps for sample in runtime.generate(n=3, proportion=1.0, min_steps=5)] == [5, 5, 5]


def test_labels_by_name_by_id_and_by_chance(with_labels: Runtime) -> None:
    by_name = with_labels.generate(n=3, label="ice")
    by_id = with_labels.generate(n=3, label=np.int64(2))
    assert [sample.label for sample in by_name] == ["ice"] * 3
    assert all(np.array_equal(one.codes, two.codes) for one, two in zip(by_name, by_id, strict=True))
    assert {sample.label for sample in with_labels.generate(n=30)} == set(LABELS)


def test_a_drawn_label_is_the_images_own(with_labels: Runtime) -> None:
    for sample in with_labels.generate(n=6):
        (again,) = with_labels.generate(seed=sample.seed, label=sample.label)
        assert np.array_equal(again.codes, sample.codes)


def test_labels_without_weights_are_equally_likely(tmp_path: Path) -> None:
    runtime = fake_runtime(tmp_path, labels=LABELS)
    assert {sample.label for sample in runtime.generate(n=30)} == set(LABELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be a whole number of at least 1, not 0"),
        ({"n": 1.0}, "n must be"),
        ({"n": True}, "n must be"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**64}, "seed must be"),
        ({"seed": 2**64 - 1, "n": 2}, r"seed \+ n - 1 must be at most 2\*\*64 - 1"),
        ({"seed": "7"}, "seed must be"),
        ({"steps": 0}, "steps must be"),
        ({"temperature": float("nan")}, "temperature must be a finite number of at least 0, not nan"),
        ({"temperature": (1, -1)}, "temperature must be"),
        ({"proportion": 0}, "proportion must be a finite number above 0 and at most 1, not 0"),
        ({"min_steps": 7}, r"min_steps must be at most steps \(6\), not 7"),
        ({"label": "ocean"}, "label must be left out: the bundle 'fake' has no labels"),
        ({"guidance": 2.0}, "guidance must be left out: the bundle 'fake' has no labels"),
        ({"guidance": np.ones(2)}, "guidance must be left out"),
        ({"steps": 10**30}, "steps must be a whole number from 1 to 65536"),
        ({"stop": "soon"}, "stop must be one of proposal, published, not 'soon'"),
        ({"stop": True}, "stop must be one of"),
        ({"order": ["uniform"]}, "order must be one of uniform, confidence, not"),
        ({"min_steps": 0}, "min_steps must be a whole number from 1 to 65536, not 0"),
        ({"n": -(10**5000)}, "n must be .*, not a value of the type int that cannot be printed$"),
        ({"n": 10**5000}, "seed .* and n is a value of the type int that cannot be printed$"),
        ({"temperature": bytearray(b"11")}, "temperature must be a number or a pair of numbers"),
        ({"stop": np.array([0.5, 0.5])}, "stop must be one of proposal, published, not array"),
    ],
)
def test_a_bad_argument_is_named_at_once(runtime: Runtime, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        runtime.stream(**arguments)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("ocean", "label must be one of coast, desert, ice, not 'ocean'"),
        (3, "label must be a whole number from 0 to 2"),
        (b"ice", "label must be a whole number from 0 to 2, not b'ice'"),
    ],
)
def test_an_unknown_label_is_named(with_labels: Runtime, label: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_labels.stream(label=label)


def test_guidance_without_a_null_label_is_refused(tmp_path: Path) -> None:
    runtime = fake_runtime(tmp_path, **labelled(null_label=False))
    for call in (
        lambda: runtime.stream(guidance=1.5),
        lambda: runtime.denoise(**ONE_STEP, label=0, guidance=[1.0, 2.0]),
    ):
        with pytest.raises(InputError, match=r"^guidance must be left out: the bundle 'fake' knows no null label to"):
            call()
    assert len(runtime.generate(guidance=1.0)) == 1


def test_an_unknown_setting_is_a_type_error(runtime: Runtime) -> None:
    with pytest.raises(TypeError, match=r"^there is no setting temprature: the bundle knows steps, temperature, "):
        runtime.generate(temprature=1.0)


def test_too_many_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QueueFullError):
        fake_runtime(tmp_path, max_waiting=3).generate(n=4)


def test_many_callers_at_once(runtime: Runtime) -> None:
    alone = {seed: runtime.generate(seed=seed)[0].codes.tolist() for seed in range(20)}
    together: dict[int, list[list[int]]] = {}

    def ask(seed: int) -> None:
        together[seed] = runtime.generate(seed=seed)[0].codes.tolist()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in reversed(range(20))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


# How positions are chosen, and when images stop


def test_the_order_and_the_stop_rule_reach_the_sampler(tmp_path: Path) -> None:
    backend = FakeBackend(settle)
    runtime = fake_runtime(tmp_path, backend)
    assert [sample.steps for sample in runtime.generate(proportion=1.0, min_steps=3)] == [3]
    assert [sample.steps for sample in runtime.generate(proportion=1.0, min_steps=3, stop="published")] == [4]
    (by_chance,), (by_confidence,) = (runtime.generate(steps=1, proportion=0.5, order=one) for one in ("uniform", None))
    assert np.array_equal(by_chance.codes, by_confidence.codes)
    (by_confidence,) = runtime.generate(steps=1, proportion=0.5, order="confidence")
    settled = np.arange(12).reshape(GRID)
    uniform, _ = noise.step(0, 0, 12)  # which is the fake's confidence
    least = np.argsort(uniform)[:6]
    assert np.array_equal(by_confidence.codes.reshape(-1)[least], settled.reshape(-1)[least])
    assert (by_confidence.codes == settled).sum() == 6


def test_a_bundle_may_have_them_as_its_default(tmp_path: Path) -> None:
    schedule = {"steps": 6, "temperature": [1, 1], "proportion": [1, 1], "min_steps": 0, "guidance": 1.0}
    rules = {"stop": "published", "order": "confidence"}
    runtime = fake_runtime(tmp_path, default_schedule={**schedule, **rules})
    assert (runtime.schedule().stop, runtime.schedule().order) == ("published", "confidence")
    assert runtime.schedule(stop="proposal").min_steps == 1  # the smallest that this rule knows


@pytest.mark.parametrize(
    "rules",
    [
        {"order": "uniform"},
        {"order": "confidence"},
        {"order": "confidence", "choice_temperature": (2, 1), "proportion": "ancestral"},
    ],
)
def test_an_image_by_any_rules_does_not_depend_on_its_batch(tmp_path: Path, rules: Settings) -> None:
    images = [
        [sample.codes.tolist() for sample in fake_runtime(tmp_path, batch_size=size).generate(n=9, **rules)]
        for size in (1, 4, 9)
    ]
    assert images[0] == images[1] == images[2]


# Inpainting


def test_a_mask_of_the_papers_kinds_is_drawn_for_the_image(runtime: Runtime) -> None:
    image = np.zeros((*IMAGE, 3), np.uint8)
    mask = runtime.draw_mask(image, "random-blocks", share=0.25, size=1, seed=3)
    assert mask.pixels.shape == IMAGE
    assert mask.text == "random-blocks:share=0.25,size=1,seed=3"
    assert np.array_equal(runtime.plan_inpainting(image, mask.pixels).repaint, mask.cells)
    assert len(runtime.inpaint(image, mask.pixels, 2)) == 2
    for shape in ((0, 8), (7, 100), (9000, 8)):
        with pytest.raises(InputError, match=r"each side must have from 8 to 8192"):
            runtime.draw_mask(np.zeros((*shape, 3), np.uint8), "block")


def test_inpainting_keeps_codes_and_pixels(runtime: Runtime) -> None:
    pixels = runtime.decode(grids(1))[0]
    pixels = np.asarray(Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST))
    mask = np.zeros(pixels.shape[:2], bool)
    mask[:20, :30] = True
    samples = runtime.inpaint(Image.fromarray(pixels), mask, n=2, seed=5)
    assert [sample.seed for sample in samples] == [5, 6]
    for sample in samples:
        assert sample.image.size == (64, 48)
        assert np.array_equal(np.asarray(sample.image)[~mask], pixels[~mask])


def test_a_stream_of_inpaintings_yields_each_as_it_finishes(runtime: Runtime) -> None:
    image, mask = np.zeros((*IMAGE, 3), np.uint8), np.ones(IMAGE, bool)
    plan = runtime.plan_inpainting(image, mask)
    with pytest.raises(InputError, match=r"^n must be"):
        runtime.stream_inpainting(plan, 0)
    streamed = sorted(runtime.stream_inpainting(plan, 12, seed=3), key=lambda sample: sample.index)
    for one, other in zip(streamed, runtime.inpaint(image, mask, 12, seed=3), strict=True):
        assert (one.index, one.seed) == (other.index, other.seed)
        assert one.image.tobytes() == other.image.tobytes()


def test_without_a_label_what_is_kept_says_what_an_inpainted_picture_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: set[int] = set()

    def propose(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        if inputs["uniform"].max() <= 1:  # else it is the trial of a graph that was just loaded
            seen.update(inputs["label"].tolist())
        return wander(inputs)

    backend = FakeBackend(propose)
    runtime = fake_runtime(tmp_path, backend, **labelled(null_label=True))
    image, mask = np.zeros((*IMAGE, 3), np.uint8), np.ones(IMAGE, bool)
    assert {sample.label for sample in runtime.inpaint(image, mask, 8)} == {None}
    assert seen == {len(LABELS)}
    seen.clear()
    assert {sample.label for sample in runtime.inpaint(image, mask, 8, label="desert", guidance=2.0)} == {"desert"}
    assert seen == {1}
    assert caplog.text == ""
    settings = settings_of("sundae", runtime.schedule(guidance=1.5))
    assert {sample.label for sample in runtime.inpaint(image, mask, **settings)} == {None}
    assert "a guidance of 1.5 changes nothing without a label to follow: name one" in caplog.text


def test_a_guidance_that_nobody_asked_for_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = {"steps": 6, "temperature": [1.0, 0.5], "proportion": [1.0, 0.5], "min_steps": 2, "guidance": 1.5}
    runtime = fake_runtime(tmp_path, **labelled(null_label=True, default_schedule=own))
    runtime.inpaint(np.zeros((*IMAGE, 3), np.uint8), np.ones(IMAGE, bool))
    assert caplog.text == ""


@pytest.mark.parametrize("null_label", [False, None])
def test_a_bundle_without_a_null_label_draws_those_of_inpainted_pictures(
    tmp_path: Path, null_label: bool | None
) -> None:
    runtime = fake_runtime(tmp_path, **labelled(null_label=null_label))
    samples = runtime.inpaint(np.zeros((*IMAGE, 3), np.uint8), np.ones(IMAGE, bool), 30)
    assert [sample.label for sample in samples] == [sample.label for sample in runtime.generate(30)]


def test_inpainting_without_an_encoder_says_so(tmp_path: Path) -> None:
    runtime = fake_runtime(tmp_path, holds=("denoiser", "decoder"))
    with pytest.raises(BundleError, match=r"has no encoder graph"):
        runtime.inpaint(np.zeros((6, 8, 3), np.uint8), np.ones((6, 8), bool))


# Failing and closing


def test_an_altered_graph_is_refused_before_anything_runs(tmp_path: Path) -> None:
    runtime = fake_runtime(tmp_path)
    (tmp_path / "decoder.onnx").write_text("altered")
    with pytest.raises(BundleError, match=r"decoder\.onnx is damaged or was altered"):
        runtime.stream()


def test_a_failing_backend_is_a_backend_error(tmp_path: Path) -> None:
    backend = FakeBackend()
    runtime = fake_runtime(tmp_path, backend)

    def fail(graph: str) -> None:
        raise BackendError(f"fake: {graph} failed: out of memory")

    backend.before_run = fail
    with pytest.raises(BackendError, match=r"^fake: denoiser failed: out of memory$"):
        runtime.generate(n=20)
    backend.before_run = lambda graph: None
    assert len(runtime.generate(n=20)) == 20


def test_a_closed_runtime_says_so(tmp_path: Path) -> None:
    with fake_runtime(tmp_path) as runtime:
        runtime.generate()
    for call in (runtime.generate, lambda: runtime.decode(grids(1)), lambda: runtime.denoise(**ONE_STEP)):
        with pytest.raises(SundaeError, match=r"^the runtime is closed$"):
            call()
    runtime.close()


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from fakes import FakeBackend, fake_runtime

backend, steps = FakeBackend(), []
def interrupt(graph):
    steps.append(graph)
    if len(steps) == 20:
        os.kill(os.getpid(), signal.SIGINT)
backend.before_run = interrupt
runtime = fake_runtime(Path(sys.argv[1]), backend)
try:
    runtime.generate(n=4000, steps=1000)
except KeyboardInterrupt:
    print("interrupted")
    raise
"""


def test_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.stdout == "interrupted\n"
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in done.stderr


# Loading


def test_load_refuses_what_is_out_of_range(tmp_path: Path) -> None:
    fake_runtime(tmp_path)
    with pytest.raises(InputError, match=r"^threads must be a whole number from 1"):
        sundae_rt.load(tmp_path, threads=0)
    with pytest.raises(InputError, match=r"^batch_size must be"):
        sundae_rt.load(tmp_path, backend="cpu", batch_size=0)
    with pytest.raises(InputError, match=r"^max_waiting must be"):
        sundae_rt.load(tmp_path, backend="cpu", max_waiting=0)
    with pytest.raises(InputError, match=r"^backend must be one of auto, tensorrt, cuda, openvino, cpu, not 'gpu'"):
        sundae_rt.load(tmp_path, backend="gpu")
    with pytest.raises(BundleError, match=r"no bundle 'nowhere'"):
        sundae_rt.load("nowhere")
    for bundle in ("", None, 1, b"earth", []):
        with pytest.raises(InputError, match=r"^a bundle is a name or a path, not "):
            sundae_rt.load(bundle)


def test_auto_says_what_it_picked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake_runtime(tmp_path)
    with caplog.at_level(logging.INFO, "sundae_rt"), sundae_rt.load(tmp_path) as runtime:
        assert runtime.backend in {"cuda", "openvino", "cpu"}
    assert f"auto picked the backend {runtime.backend}" in caplog.text
