"""PyTorch modules to ONNX models: dynamic batch, opset 22, no trace of the machine that made them."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnxscript import opset22
from torch import Tensor, nn

from sundae_rt.export.merging import merge_products, share_tensors
from sundae_rt.export.rounding import store_halves

OPSET = 22
INLINE_LIMIT = 2**26
"""Bytes of weights that a graph's own file may hold. What lies beside it, runtimes map into memory and do not copy,
but for halves."""
SMALL = 1024
"""Bytes under which a tensor always stays inside its graph."""
ALIGNMENT = 64
"""Bytes: where a tensor may begin in a file of weights."""


def to_onnx(
    module: nn.Module,
    examples: dict[str, Tensor],
    outputs: list[str],
    path: Path | None = None,
    inline_limit: int = INLINE_LIMIT,
    half_weights: bool = False,
) -> onnx.ModelProto:
    """Converts a module whose inputs all have the batch as first axis.

    Args:
        module: in evaluation mode; its ``forward`` takes ``examples`` in their order.
        examples: name of each input to an example of two rows or more.
        outputs: a name for each output.
        path: where the graph is going to be written. Weights of more than ``inline_limit`` bytes are written beside
            it, to :func:`data_path`, and may not be without it.
        inline_limit: 0 for a graph whose weights others are going to share.
        half_weights: store weights that fp16 holds exactly as such.

    Returns:
        A checked model. Its tensors are inside, or in the file beside ``path``, from where it is run.
    """
    batch = torch.export.Dim("batch", min=1, max=65535)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library in ("torch.onnx", "onnxscript"):
            logging.getLogger(library).setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(examples.values()),
            input_names=list(examples),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=[{0: batch}] * len(examples),
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: _attention,
                torch.ops.aten.group_norm.default: _group_norm,
            },
            verbose=False,
        ).model
    merge_products(program)
    share_tensors(program)
    if half_weights:
        store_halves(program)
    tensors = [value.const_value for value in program.graph.initializers.values()]
    is_inside = path is None or sum(tensor.nbytes for tensor in tensors) <= inline_limit
    if not is_inside:
        _write_weights(program, path)
    model = ir.to_proto(program)
    _strip(model)
    if is_inside:
        onnx.checker.check_model(model)
    else:  # the checker looks for weights beside a file
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(path)
    return model


def data_path(path: Path) -> Path:
    """Where the weights of a graph at ``path`` lie that are not in its own file."""
    return path.with_name(f"{path.name}.data")


def _write_weights(model: ir.Model, path: Path) -> None:
    """Moves all but the smallest tensors to :func:`data_path`, one by one: no second copy of them is in memory."""
    data = data_path(path)
    with data.open("wb") as file:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor.nbytes < SMALL:
                continue
            file.write(bytes(-file.tell() % ALIGNMENT))
            beside = ir.ExternalTensor(
                data.name,
                file.tell(),
                tensor.nbytes,
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=data.parent,
            )
            tensor.tofile(file)
            value.const_value = beside


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


def _group_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float = 1e-5, cudnn_enabled: bool = True) -> ir.Value:
    """Group normalisation of ``[B, C, H, W]`` as an instance normalisation of its groups.

    ONNX has an operator for the whole. ONNX Runtime makes a dozen of it, with a copy of x each: of a megapixel, half a
    gigabyte. This takes one copy, and is what OpenVINO makes of that operator, too.
    """
    kind = x.dtype.numpy()
    rows = opset22.Reshape(x, opset22.Constant(value_ints=[0, groups, -1]))
    ones, zeros = (opset22.Constant(value=ir.tensor(np.full(groups, value, kind))) for value in (1, 0))
    normed = opset22.InstanceNormalization(rows, ones, zeros, epsilon=eps)
    normed = opset22.Reshape(normed, opset22.Constant(value_ints=[0, *x.shape[1:]]))  # 0 takes over the batch
    scale, shift = (opset22.Unsqueeze(part, opset22.Constant(value_ints=[1, 2])) for part in (weight, bias))
    return opset22.Add(opset22.Mul(normed, scale), shift)


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
