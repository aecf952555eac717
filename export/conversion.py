"""PyTorch modules to ONNX bytes: dynamic batch, opset 22, no trace of the machine that made them."""

from __future__ import annotations

import logging
import warnings

import onnx
import torch
from torch import Tensor, nn

OPSET = 22


def to_onnx(module: nn.Module, examples: dict[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
    """Converts a module whose inputs all have the batch as first axis.

    Args:
        module: in evaluation mode; its ``forward`` takes ``examples`` in their order.
        examples: name of each input to an example of two rows or more.
        outputs: a name for each output.

    Returns:
        A checked model; all its tensors are inside.
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
            verbose=False,
        )
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model)
    return model


def drop_output(model: onnx.ModelProto, name: str) -> None:
    """Takes one output off the graph; what computed it stays where other outputs need it."""
    kept = [output for output in model.graph.output if output.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def _strip(model: onnx.ModelProto) -> None:
    """Removes stack traces and source paths, which would differ from machine to machine."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    model.producer_name, model.producer_version = "sundae-rt", ""
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
