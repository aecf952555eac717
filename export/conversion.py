"""PyTorch modules to ONNX bytes: dynamic batch, opset 22, no trace of the machine that made them."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.external_data_helper import set_external_data
from onnxscript import opset22
from torch import Tensor, nn

from sundae_rt.export.merging import merge_products

OPSET = 22
INLINE_LIMIT = 2**31 - 2**24
"""Bytes of weights that a graph's own file may hold: a protobuf ends at 2**31, and the graph itself needs some."""
SMALL = 1024
"""Bytes under which a tensor always stays inside its graph."""
ALIGNMENT = 64
"""Bytes: where a tensor may begin in a file of weights."""


def to_onnx(
    module: nn.Module, examples: dict[str, Tensor], outputs: list[str], path: Path | None = None
) -> onnx.ModelProto:
    """Converts a module whose inputs all have the batch as first axis.

    Args:
        module: in evaluation mode; its ``forward`` takes ``examples`` in their order.
        examples: name of each input to an example of two rows or more.
        outputs: a name for each output.
        path: where the graph is going to be written. Weights of more than :data:`INLINE_LIMIT` are written beside it,
            to :func:`data_path`, and may not be without it.

    Returns:
        A checked model. Its tensors are inside, or in the file beside ``path``, from where it is run.
    """
    batch = torch.export.Dim("batch", min=1, max=65535)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(examples.values()),
            input_names=list(examples),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=[{0: batch}] * len(examples),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            verbose=False,
        )
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size <= INLINE_LIMIT or path is None:
        model = program.model_proto
        _strip(model)
        merge_products(model)
        onnx.checker.check_model(model)
        return model
    # The weights go from the module to the file one by one: no second copy of them is ever in memory.
    program.save(path, external_data=True)
    onnx.checker.check_model(path)
    model = onnx.load(path, load_external_data=False)
    path.unlink()
    _strip(model)
    return model


def data_path(path: Path) -> Path:
    """Where the weights of a graph at ``path`` lie that its own file cannot hold."""
    return path.with_name(f"{path.name}.data")


def move_weights(model: onnx.ModelProto, path: Path) -> None:
    """Writes the weights inside a graph to :func:`data_path`, from where other graphs can share them.

    The model is changed in place; one whose weights lie there already stays as it is.
    """
    inside = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= SMALL]
    if not inside:
        return
    with data_path(path).open("wb") as file:
        for tensor in inside:
            file.write(bytes(-file.tell() % ALIGNMENT))
            set_external_data(tensor, data_path(path).name, file.tell(), len(tensor.raw_data))
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")


def weights_file(model: onnx.ModelProto) -> str | None:
    """The name of the file in which a graph's weights lie, or None if they are all inside."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return next((entry.value for entry in entries if entry.key == "location"), None)


def drop_output(model: onnx.ModelProto, name: str) -> None:
    """Takes one output off the graph; what computed it stays where other outputs need it."""
    kept = [output for output in model.graph.output if output.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def _attention(query: Any, key: Any, value: Any) -> Any:
    """Attention without a mask, ``[B, heads, T, width]`` each, in the few operators that runtimes fuse.

    The exporter's own way scales queries and keys both, and works out the keys' shape anew at every run.
    """
    scale = opset22.Constant(value_float=1 / math.sqrt(query.shape[-1]))
    scores = opset22.MatMul(opset22.Mul(query, scale), opset22.Transpose(key, perm=[0, 1, 3, 2]))
    return opset22.MatMul(opset22.Softmax(scores, axis=-1), value)


def _strip(model: onnx.ModelProto) -> None:
    """Removes stack traces and source paths, which would differ from machine to machine, and shapes of what is inside.

    Runtimes infer shapes themselves; with the exporter's, ONNX Runtime was slower by 7% of a denoiser's step.
    """
    graph = model.graph
    del graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    model.producer_name, model.producer_version = "sundae-rt", ""
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
