"""The seeds' promise: one seed, one image, alone, in a batch, or among other requests, whatever runs it.

On the bundle that ships, and on one made of it here that holds an 8-bit denoiser too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sundae_rt
from sundae_rt import engines
from sundae_rt.backends import names, open_backend
from sundae_rt.bundle import Bundle
from sundae_rt.choice import runnable
from sundae_rt.errors import BackendError
from sundae_rt.runtime import Runtime

onnx = pytest.importorskip("onnx", reason="the 8-bit graph of this test is made with onnx")

STEPS = {"steps": 3, "min_steps": 3}
SEED = 100


def with_int8(source: Path, folder: Path) -> Path:
    """A copy of a bundle whose denoiser also comes with its products in 8 bits, by scales that are fixed ahead."""
    shutil.copytree(source, folder)
    model = onnx.load(folder / "denoiser.onnx")
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    halves = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    tensors |= {name: tensors[half].astype(np.float32) for name, half in halves.items() if half in tensors}
    made: list[onnx.NodeProto] = []

    def rounded(name: str, scale: np.ndarray, at: str) -> str:
        constants = {f"{at}.scale": scale.astype(np.float32), f"{at}.zero": np.zeros(scale.shape, np.int8)}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in constants.items())
        axis = {"axis": 1} if scale.ndim else {}
        made.append(onnx.helper.make_node("QuantizeLinear", [name, *constants], [f"{at}.int8"], **axis))
        made.append(onnx.helper.make_node("DequantizeLinear", [f"{at}.int8", *constants], [f"{at}.back"], **axis))
        return f"{at}.back"

    for node in model.graph.node:
        if node.op_type == "MatMul" and tensors.get(node.input[1], np.empty(0)).ndim == 2:
            columns = np.abs(tensors[node.input[1]]).max(0) / 127
            node.input[0] = rounded(node.input[0], np.array(6 / 127), f"{node.output[0]}.left")
            node.input[1] = rounded(node.input[1], columns, f"{node.output[0]}.right")
        made.append(node)
    assert len(made) > len(model.graph.node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    data = model.SerializeToString()
    (folder / "denoiser-int8.onnx").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"file": "denoiser-int8.onnx", "sha256": hashlib.sha256(data).hexdigest()}
    manifest["graphs"]["denoiser"]["int8"] = entry
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(with_int8(engines.shipped()[engines.DEFAULT], tmp_path_factory.mktemp("int8") / "earth"))


@pytest.fixture(params=[name for name in names() if name not in ("cuda", "tensorrt")])
def runtimes(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[list[Runtime]]:
    """The bundle on one backend, in all the variants that it can run."""
    try:
        backend = open_backend(request.param, threads=2)
    except BackendError as error:
        pytest.skip(str(error))
    yield [Runtime(bundle, backend, variant=variant) for variant in runnable(bundle.manifest, backend)]


def test_an_image_depends_on_its_seed_alone(runtimes: list[Runtime]) -> None:
    assert {"fp32", "int8"} <= {runtime.variant for runtime in runtimes}
    for runtime in runtimes:
        with runtime:
            alone = [runtime.generate(1, seed=SEED + at, **STEPS)[0] for at in range(3)]
            together = runtime.generate(5, seed=SEED, **STEPS)
            others = [runtime.stream(4, seed=seed, steps=5, min_steps=2, guidance=1.5) for seed in (0, 7)]
            for other in others:
                next(other)  # its images are under way
            among = runtime.generate(3, seed=SEED, **STEPS)
            for other in others:
                other.close()
        for at, sample in enumerate(alone):
            for again in (together[at], among[at]):
                np.testing.assert_array_equal(again.codes, sample.codes, err_msg=runtime.variant)
                np.testing.assert_array_equal(
                    np.asarray(again.image), np.asarray(sample.image), err_msg=runtime.variant
                )


def test_variants_differ_and_fp32_is_the_same_on_every_backend_up_to_rounding(runtimes: list[Runtime]) -> None:
    rng = np.random.default_rng(0)
    shape = (2, *runtimes[0].manifest.latent_grid)
    codes, uniform = rng.integers(0, runtimes[0].manifest.vocabulary, shape), rng.random(shape, np.float32)
    update = np.ones(shape, np.bool_)
    with sundae_rt.load(engines.DEFAULT, backend="cpu", variant="fp32") as reference:
        _, proposal, confidence = reference.denoise(codes, 1.0, uniform, update, "coast")
    largest = {}
    for runtime in runtimes:
        with runtime:
            _, other, other_confidence = runtime.denoise(codes, 1.0, uniform, update, "coast")
        largest[runtime.variant] = float(np.abs(other_confidence - confidence).max())
        if runtime.variant == "fp32":
            assert (other == proposal).mean() >= 0.998
    assert largest["fp32"] < 1e-5
    assert all(difference > 1e-5 for variant, difference in largest.items() if variant != "fp32")
