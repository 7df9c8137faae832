"""Store the weights of an ONNX classifier in 8 or 16 bits.

The 8-bit formats consist of plain ONNX operations, and both store embedding tables in 8 bits with a
scale for each row:

- `int8` quantizes weights and activations. Activations get one scale for a batch, so that an answer
  can depend on the other texts of its batch: run it on one text at a time. Weights use 7 of their
  bits (`reduce_range`), so that sums don't saturate on processors without VNNI.
- `int8-weights` quantizes weights alone; the arithmetic stays in float32.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# Smaller tensors save nothing that counts.
_MIN_VALUES = 1_024


def quantize_dynamic(model: "ModelProto") -> "ModelProto":
    """Quantize weights and activations to 8 bits (`int8`).

    Args:
        model: A float32 model; changed in place.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize_file

    _quantize_embedding_rows(model)
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "float32.onnx"), Path(scratch, "int8.onnx")
        onnx.save_model(model, str(source))
        quantize_file(
            str(source),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(str(target))


def quantize_weights(model: "ModelProto") -> "ModelProto":
    """Quantize weights to 8 bits, with a scale for each output of a layer (`int8-weights`).

    Args:
        model: A float32 model; changed in place.
    """
    from onnx import helper, numpy_helper

    _quantize_embedding_rows(model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    dequantized: set[str] = set()
    for node in [*graph.node]:
        weight = weights.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if weight is None or not _is_large_matrix(weight):
            continue
        output = f"{weight.name}.float32"
        if weight.name not in dequantized:
            dequantized.add(weight.name)
            is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
            output_axis = 0 if is_transposed else 1
            values, scales = _round_to_int8(numpy_helper.to_array(weight), axis=1 - output_axis)
            inputs = _replace_initializer(graph, weight, {"int8": values, "scales": scales.ravel()})
            dequantize = helper.make_node("DequantizeLinear", inputs, [output], axis=output_axis)
            graph.node.insert([*graph.node].index(node), dequantize)
        node.input[1] = output
    return model


def convert_to_float16(model: "ModelProto") -> "ModelProto":
    """Convert weights and arithmetic to float16; inputs and outputs keep their types.

    Args:
        model: A float32 model; changed in place.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return converted


# By precision.
CONVERTERS: Mapping[str, "Callable[[ModelProto], ModelProto]"] = {
    "float32": lambda model: model,
    "int8": quantize_dynamic,
    "int8-weights": quantize_weights,
    "float16": convert_to_float16,
}


def _quantize_embedding_rows(model: "ModelProto") -> None:
    """Replace `Gather(table)` by `Cast(Gather(rows)) * Gather(scales)`, in place."""
    from onnx import TensorProto, helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    for node in [*graph.node]:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or not _is_large_matrix(table) or _count_readers(graph, table.name) > 1:
            continue
        from onnx import numpy_helper

        rows, scales = _round_to_int8(numpy_helper.to_array(table), axis=1)
        rows_name, scales_name = _replace_initializer(
            graph, table, {"int8": rows, "scales": scales}
        )
        indices, output = node.input[1], node.output[0]
        gathered = [f"{output}.int8", f"{output}.scales"]
        replacements = [
            helper.make_node("Gather", [rows_name, indices], gathered[:1], axis=0),
            helper.make_node("Gather", [scales_name, indices], gathered[1:], axis=0),
            helper.make_node("Cast", gathered[:1], [f"{output}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{output}.cast", gathered[1]], [output]),
        ]
        index = [*graph.node].index(node)
        graph.node.remove(node)
        for offset, replacement in enumerate(replacements):
            graph.node.insert(index + offset, replacement)


def _round_to_int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale each row (axis 1) or column (axis 0) to -127 … 127, and round.

    Returns:
        int8 values, and float32 scales in which `axis` has the length 1.
    """
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales


def _replace_initializer(
    graph: "GraphProto", tensor: "TensorProto", parts: Mapping[str, np.ndarray]
) -> list[str]:
    """Replace a tensor by others, and return their names."""
    from onnx import numpy_helper

    names = [f"{tensor.name}.{part}" for part in parts]
    graph.initializer.remove(tensor)
    for name, values in zip(names, parts.values(), strict=True):
        graph.initializer.append(numpy_helper.from_array(values, name))
    return names


def _is_large_matrix(tensor: "TensorProto") -> bool:
    from onnx import TensorProto

    is_matrix = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    return is_matrix and tensor.dims[0] * tensor.dims[1] >= _MIN_VALUES


def _count_readers(graph: "GraphProto", name: str) -> int:
    readers: list[NodeProto] = [node for node in graph.node if name in node.input]
    return len(readers)
