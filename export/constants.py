"""The constants of a graph, wherever they lie: inside it, in a file beside it, as halves with a cast behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper


class Constants:
    """A graph's constants by the names that its nodes read: tensors, and what a cast makes of one.

    Args:
        model: the graph.
        folder: where the tensors lie that are not inside; not needed to know which there are.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._folder = str(folder or "")
        self._casts = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type == "Cast" and node.input[0] in self.tensors
        }

    def __contains__(self, name: str) -> bool:
        return name in self.tensors or name in self._casts

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(self._tensor(name), self._folder).astype(np.float32)

    def rank(self, name: str) -> int:
        """How many axes a constant has."""
        return len(self._tensor(name).dims)

    def stored(self, name: str) -> onnx.TensorProto:
        """A tensor itself, inside the graph wherever it lay."""
        tensor = self.tensors[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        return numpy_helper.from_array(numpy_helper.to_array(tensor, self._folder), name)

    def _tensor(self, name: str) -> onnx.TensorProto:
        return self.tensors[self._casts.get(name, name)]


def constant_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The matrix products whose right side is a constant ``[K, N]``, in the graph's order."""
    constants = Constants(model)
    return [
        node
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants and constants.rank(node.input[1]) == 2
    ]
