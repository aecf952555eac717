"""What a graph has twice it shall have once: equal tensors, and matrix products that share their left side."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir


def share_tensors(model: ir.Model) -> None:
    """Leaves one of the tensors that are equal in type, shape and every bit, for all that read any of them.

    The tables of rotary embeddings are such tensors: the exporter makes one for each layer.

    Args:
        model: changed in place.
    """
    kept: dict[object, ir.Value] = {}
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        key = tensor.dtype, tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).digest()
        if (first := kept.setdefault(key, value)) is not value:
            value.replace_all_uses_with(first)
            del model.graph.initializers[value.name]


def merge_products(model: ir.Model) -> None:
    """Puts ``x @ a`` and ``x @ b`` together as ``x @ [a b]`` and a split, wherever a and b are constants.

    Each column of a product is computed as before, so results stay as they are. Query, key and value of an attention
    are such products. ONNX Runtime makes signed 8-bit activations the unsigned ones that its kernels on x86 are made
    for only where one product alone reads them.

    Args:
        model: changed in place.
    """
    by_left: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and _is_weight(node.inputs[1]):
            by_left.setdefault(node.inputs[0], []).append(node)
    for left, products in by_left.items():
        if len(products) > 1:
            _merge(model.graph, left, products)


def _merge(graph: ir.Graph, left: ir.Value, products: list[ir.Node]) -> None:
    weights = [product.inputs[1] for product in products]
    parts = [weight.const_value.numpy() for weight in weights]
    merged = _constant(graph, "+".join(weight.name for weight in weights), np.concatenate(parts, 1))
    sizes = _constant(graph, f"{left.name}/sizes", np.array([part.shape[1] for part in parts]))
    product = ir.node("MatMul", [left, merged], name=f"{left.name}/products")
    product.outputs[0].name = product.name
    outputs = [old.outputs[0] for old in products]
    split = ir.node("Split", [product.outputs[0], sizes], {"axis": -1}, num_outputs=len(products))
    split.name = f"{left.name}/split"
    graph.insert_before(products[0], [product, split])
    for old, new in zip(outputs, split.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(products, safe=True)
    for weight in set(weights):
        if not weight.uses():
            del graph.initializers[weight.name]


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and len(value.const_value.shape) == 2


def _constant(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(values, name=name))
    graph.register_initializer(value)
    return value
