"""8-bit weights and activations for the convolutions of a decoder, with scales that are fixed ahead.

What goes into a convolution has one scale and zero point, over the range that calibration saw. What comes out is
rounded too, as the 8-bit kernels of ONNX Runtime want it, and for that each channel has its own: weight and bias are
divided by them ahead, so that the kernel rounds to whole numbers, and what reads those multiplies again. That is worth
5 dB beside one scale for all channels. Nothing is scaled by what runs beside it, so a picture depends on its codes
alone. What stays in fp32: normalisations, activations, skips, attention, and the last convolution, whose result is the
picture. Kernels of one pixel do too: they are a small part of the work, and those on a skip, where nothing is
normalised, cost as much accuracy as all others of their level.

The graph says so in ``QuantizeLinear`` and ``DequantizeLinear`` around each convolution, which ONNX Runtime and
OpenVINO fuse into 8-bit kernels. Activations are unsigned, for which kernels on x86 are made, and have a zero point:
below -0.28 SiLU would leave half of the signed numbers unused. TensorRT takes neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sundae_rt.export.constants import Constants
from sundae_rt.export.quantisation import LARGEST
from sundae_rt.export.running import opened

LARGEST_CODE = 255
"""Of an unsigned 8-bit number."""
LARGEST_BIAS = 2**30
"""In steps of 32-bit sums, of which as many are left to the products."""

Arrays = NDArray[np.float32]
Range = tuple[Arrays, Arrays]
"""Smallest and largest value of each channel, 0 among them: float32 ``[C]`` each."""


def convolved(model: onnx.ModelProto, batches: Iterable[Mapping[str, NDArray[Any]]], folder: Path) -> onnx.ModelProto:
    """A copy of a decoder's graph with its convolutions in 8 bits, but for kernels of one pixel and the last.

    All of its weights are inside.

    Args:
        model: its tensors are inside, or in a file in ``folder``; they may be stored as halves, with a cast behind.
        batches: inputs to calibrate on: codes of images as different as there are.
        folder: where the weights lie that are not inside.
    """
    weights = Constants(model, folder)
    constant = [
        n for n in model.graph.node if n.op_type == "Conv" and all(name in weights for name in n.input[1:] if name)
    ]
    convolutions = [node for node in constant[:-1] if weights[node.input[1]].shape[2:] != (1, 1)]
    entries = dict.fromkeys(name for node in convolutions for name in (node.input[0], node.output[0]))
    ranges = channel_ranges(model, list(entries), batches, folder)
    chosen = {node.output[0] for node in convolutions}
    rounded = _Rounded(weights, ranges)
    for node in model.graph.node:
        if node.output[0] in chosen:
            rounded.convolve(node)
        else:
            rounded.nodes.append(node)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(_needed(rounded.nodes, [output.name for output in model.graph.output]))
    used = {name for node in result.graph.node for name in node.input}
    result.graph.initializer.extend(weights.stored(name) for name in weights.tensors if name in used)
    result.graph.initializer.extend(tensor for name, tensor in rounded.tensors.items() if name in used)
    return result


def channel_ranges(
    model: onnx.ModelProto, names: list[str], batches: Iterable[Mapping[str, NDArray[Any]]], folder: Path
) -> dict[str, Range]:
    """The range of each channel of the named tensors ``[B, C, H, W]`` inside a graph, over all batches.

    The graph itself reduces them: all of a large decoder's activations together would not fit into memory.
    """
    if not names:
        return {}
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), "all/but/channels"))
    del probed.graph.output[:]
    for name in names:
        for reduced in ("ReduceMin", "ReduceMax"):
            output = f"{name}/{reduced}"
            probed.graph.node.append(helper.make_node(reduced, [name, "all/but/channels"], [output], keepdims=0))
            probed.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    run = opened(probed, folder)
    found: dict[str, Range] = {name: (np.float32(0), np.float32(0)) for name in names}
    for batch in batches:
        outputs = run(batch)
        for name, (low, high) in found.items():
            found[name] = (
                np.minimum(low, outputs[f"{name}/ReduceMin"]),
                np.maximum(high, outputs[f"{name}/ReduceMax"]),
            )
    return found


def scale_and_zero(low: Arrays, high: Arrays) -> tuple[Arrays, NDArray[np.uint8]]:
    """Of the 8-bit numbers that cover these ranges, each from 0 or below to 0 or above: 0 itself is one of them."""
    scale = np.where(high > low, (high - low) / LARGEST_CODE, 1).astype(np.float32)
    return scale, np.rint(-low / scale).clip(0, LARGEST_CODE).astype(np.uint8)


class _Rounded:
    """The nodes and the new tensors of a graph whose convolutions take 8 bits."""

    def __init__(self, weights: Constants, ranges: Mapping[str, Range]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self._weights, self._ranges = weights, ranges
        self._inputs: dict[str, tuple[str, np.float32]] = {}  # what stands for each, and its scale

    def convolve(self, node: onnx.NodeProto) -> None:
        """Appends one convolution."""
        source, output = node.input[0], node.output[0]
        inner, input_scale = self._input(source)
        scale, zero = scale_and_zero(*self._ranges[output])
        weight = self._weights[node.input[1]] / scale[:, None, None, None]
        bias = zero + (self._weights[node.input[2]] / scale if any(node.input[2:]) else np.float32(0))
        # A step of the sums is the product of both scales: so fine that the bias no longer fits it may not be.
        steps = np.maximum(np.abs(weight).max((1, 2, 3)) / LARGEST, np.abs(bias) / (LARGEST_BIAS * input_scale))
        steps = np.where(steps > 0, steps, 1).astype(np.float32)
        whole_weight = np.rint(weight / steps[:, None, None, None]).clip(-LARGEST, LARGEST).astype(np.int8)
        whole_bias = np.rint(bias / (steps * input_scale)).astype(np.int32)
        parts = [
            inner,
            self._widened(f"{output}/weight", whole_weight, steps, np.zeros(len(steps), np.int8), axis=0),
            self._widened(f"{output}/bias", whole_bias, steps * input_scale, np.zeros(len(steps), np.int32), axis=0),
        ]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[0] = parts, f"{output}/sums"
        self.nodes.append(copy)
        one, none = self._tensor("one", np.float32(1)), self._tensor("none", np.uint8(0))
        self._node("QuantizeLinear", [copy.output[0], one, none], f"{output}/uint8")
        entries = [f"{output}/uint8", self._tensor(f"{output}/scale", scale), self._tensor(f"{output}/zero", zero)]
        self._node("DequantizeLinear", entries, output, axis=1)

    def _input(self, source: str) -> tuple[str, np.float32]:
        """Rounds what goes into convolutions, once; returns its new name and its scale."""
        if source not in self._inputs:
            low, high = self._ranges[source]
            scale, zero = scale_and_zero(low.min(), high.max())
            entries = [self._tensor(f"{source}/in/scale", scale), self._tensor(f"{source}/in/zero", zero)]
            self._node("QuantizeLinear", [source, *entries], f"{source}/in/uint8")
            self._node("DequantizeLinear", [f"{source}/in/uint8", *entries], f"{source}/in")
            self._inputs[source] = f"{source}/in", np.float32(scale)
        return self._inputs[source]

    def _widened(self, name: str, values: NDArray[Any], scale: Arrays, zero: NDArray[Any], **axis: int) -> str:
        entries = [self._tensor(f"{name}/whole", values), self._tensor(f"{name}/scale", scale)]
        self._node("DequantizeLinear", [*entries, self._tensor(f"{name}/zero", zero)], name, **axis)
        return name

    def _tensor(self, name: str, values: Any) -> str:
        self.tensors[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))


def _needed(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    """The nodes, in their order, on which the outputs depend: the casts of weights that 8 bits replaced are not."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
