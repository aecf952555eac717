"""Runs a graph that is not in a bundle yet, under ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from sundae_rt.errors import InputError

Arrays = dict[str, NDArray[Any]]
LARGEST = 2**31 - 2**24
"""Bytes of weights that may be inside a graph: a protobuf ends at 2**31, and the graph itself needs some."""
Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]
"""A graph: named arrays to named arrays."""


def opened(model: onnx.ModelProto, folder: Path | None = None, *, fuses: bool = True) -> Run:
    """Loads a model; ``folder`` holds the weights that are not inside it.

    ``fuses``: let 8-bit kernels take the place of what is rounded to 8 bits and back. Without them it is computed in
    fp32, to the same result; kernels for x86 without VNNI come to others.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # as the runtime does with large graphs, for the sake of memory
    if not fuses:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def widened(model: onnx.ModelProto, folder: Path | None = None) -> onnx.ModelProto:
    """The same graph with fp32 wherever it has bf16, which ONNX Runtime does not compute in on a CPU.

    ``folder`` holds the weights that are not inside the model; all of the wide one's are inside.

    Raises:
        InputError: they are too many for that.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    if folder is not None:
        onnx.load_external_data_for_model(wide, str(folder))
    graph = wide.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in (*graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    if sum(len(tensor.raw_data) for tensor in graph.initializer) > LARGEST:
        raise InputError("a model of this size cannot be checked in bf16: export fp16 instead")
    for attribute in attributes:
        if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
    del graph.value_info[:]
    return wide
