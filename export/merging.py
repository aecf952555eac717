"""Matrix products that share their left side become one, which 8-bit kernels need and the others profit from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def constant_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The matrix products whose right side is a constant ``[K, N]``, in the graph's order."""
    constants = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]


def merge_products(model: onnx.ModelProto) -> None:
    """Puts ``x @ a`` and ``x @ b`` together as ``x @ [a b]`` and a split, wherever a and b are constants.

    Each column of a product is computed as before, so results stay as they are. Query, key and value of an attention
    are such products. ONNX Runtime makes signed 8-bit activations the unsigned ones that its kernels on x86 are made
    for only where one product alone reads them.

    Args:
        model: changed in place; its tensors are inside.
    """
    by_left: dict[str, list[onnx.NodeProto]] = {}
    for node in constant_products(model):
        by_left.setdefault(node.input[0], []).append(node)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = [name for node in graph.node for name in node.input]
    for left, products in by_left.items():
        if len(products) < 2:
            continue
        names = [product.input[1] for product in products]
        parts = [numpy_helper.to_array(tensors[name]) for name in names]
        merged, sizes, output = "+".join(names), f"{left}/sizes", f"{left}/products"
        graph.initializer.append(numpy_helper.from_array(np.concatenate(parts, 1), merged))
        graph.initializer.append(numpy_helper.from_array(np.array([part.shape[1] for part in parts]), sizes))
        place = next(index for index, node in enumerate(graph.node) if node.output == products[0].output)
        outputs = [product.output[0] for product in products]
        for product in products:
            graph.node.remove(product)
        graph.node.insert(place, helper.make_node("MatMul", [left, merged], [output], name=output))
        split = helper.make_node("Split", [output, sizes], outputs, name=f"{left}/split", axis=-1)
        graph.node.insert(place + 1, split)
        for name in set(names):
            if readers.count(name) == names.count(name):
                graph.initializer.remove(tensors[name])
