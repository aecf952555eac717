"""8-bit weights and activations for the matrix products of a prior, with scales that are fixed ahead.

Every activation has one scale, calibrated on real inputs, and every column of a weight its own. Nothing is scaled by
what runs beside it, so an image's codes depend on its seed alone. What is left in fp32: the head, embeddings, norms,
attention's own products, and all of the draw.

The graph says so in ``QuantizeLinear`` and ``DequantizeLinear`` around each product (signed, zero point 0), which ONNX
Runtime, OpenVINO and TensorRT all fuse into 8-bit kernels. Weights stay as they are stored before their
``QuantizeLinear``: runtimes fold it when they load, and a bundle holds one file of weights for both precisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sundae_rt.export.constants import Constants, constant_products
from sundae_rt.export.running import opened

LARGEST = 127
"""Of a signed 8-bit number, both ways."""
KEPT = 4096
"""Values of each activation that are kept of each calibration batch, to choose where to clip."""
CLIPS = np.linspace(1.0, 0.3, 15)
"""Shares of an activation's largest value at which clipping is tried."""


def quantised(model: onnx.ModelProto, batches: Iterable[Mapping[str, NDArray[Any]]], folder: Path) -> onnx.ModelProto:
    """A copy of a prior's graph with its products in 8 bits, all but the last, which is the head.

    Args:
        model: its tensors are inside, or in a file in ``folder``; they may be stored as halves, with a cast behind.
        batches: inputs to calibrate on: what the graph will see, early and late in sampling.
        folder: where the weights lie that are not inside.
    """
    products = constant_products(model)[:-1]
    scales = activation_scales(model, list(dict.fromkeys(product.input[0] for product in products)), batches, folder)
    chosen = {product.output[0] for product in products}
    weights = Constants(model, folder)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()

    def constant(name: str, values: NDArray[Any]) -> str:
        if name not in done:
            done.add(name)
            graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def scaled(kind: str, source: str, name: str, scale: NDArray[np.float32], output: str, **how: int) -> str:
        shape = list(scale.shape)
        zero = constant(f"zero{shape}", np.zeros(shape, np.int8))
        inputs = [source, constant(f"{name}/scale{shape}", scale), zero]
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **how))
        return output

    def rounded(name: str, scale: NDArray[np.float32], rows: int = 0) -> str:
        """Rounds a tensor to 8 bits and back, once; returns the name of the outcome.

        One of ``rows`` is a weight with a scale for each column. What rounds it takes a column for a block, which ONNX
        Runtime does eight times as fast as along an axis: it was most of the time that a prior took to load.
        """
        whole, back = f"{name}/int8", f"{name}/back"
        if back not in done:
            done.add(back)
            if rows:
                scaled("QuantizeLinear", name, name, scale[None], whole, axis=0, block_size=rows)
                scaled("DequantizeLinear", whole, name, scale, back, axis=1)
            else:
                scaled("QuantizeLinear", name, name, scale, whole)
                scaled("DequantizeLinear", whole, name, scale, back)
        return back

    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.output[0] in chosen:
            left, right = node.input
            weight = weights[right]
            copy.input[:] = [rounded(left, scales[left]), rounded(right, column_scales(weight), len(weight))]
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def column_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scale of each column of a weight ``[K, N]``, float32 ``[N]``: its largest value becomes 127."""
    largest = np.abs(weight).max(0)
    return np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)


def activation_scales(
    model: onnx.ModelProto, names: list[str], batches: Iterable[Mapping[str, NDArray[Any]]], folder: Path
) -> dict[str, NDArray[np.float32]]:
    """The scale of each named tensor inside a graph, float32 scalars, from what it holds when the batches run."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    run = opened(probed, folder)
    largest = dict.fromkeys(names, 0.0)
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for batch in batches:
        for name, values in run(batch).items():
            largest[name] = max(largest[name], float(np.abs(values).max()))
            kept[name].append(rng.choice(values.ravel(), KEPT))
    return {name: clipped_scale(np.concatenate(kept[name]), largest[name]) for name in names}


def clipped_scale(values: NDArray[np.float32], largest: float) -> NDArray[np.float32]:
    """The scale that rounds these values best, by squared error; larger ones than its 127 steps reach are clipped.

    ``largest``: the largest size of all values, of which these are a part.
    """
    candidates = [np.float32(max(largest, 1e-12) * share / LARGEST) for share in CLIPS]
    errors = [
        float(np.square(np.clip(np.rint(values / scale), -LARGEST, LARGEST) * scale - values).sum())
        for scale in candidates
    ]
    return np.array(candidates[int(np.argmin(errors))])
