"""Write a classifier's ONNX files into its folder, and check them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdcli.data.tokenization.tokenize import encoding_to_rows, tokenize_texts
from kdcli.errors import ModelError, UsageError, as_resource_error, first_message_line
from kdcli.evaluation.calibration import inference_config
from kdcli.inference_sessions import load_session
from kdcli.models import model_io
from kdcli.models.padding_invariance import create_collator, needs_equal_lengths
from kdcli.models.sequence_length import get_max_length
from kdcli.onnx_export.onnx_graph import (
    IR_VERSION,
    OPSET_VERSION,
    export_onnx_graph,
    remove_build_traces,
    set_metadata,
    silence_exporter,
)
from kdcli.onnx_export.quantization import CONVERTERS
from kdcli.recipe.export import Format, Precision
from kdcli.runtime import (
    EQUAL_LENGTHS_KEY,
    FLOAT32_FILE,
    ONNX_FOLDER,
    PARAMETERS_KEY,
    PRECISION_KEY,
    QUANTIZED_FILE,
)
from kdcli.safe_files import open_atomically

if TYPE_CHECKING:
    from onnx import ModelProto
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The names that transformers.js and optimum look for.
FILE_NAMES: Mapping[Precision, str] = {
    "float32": FLOAT32_FILE,
    "int8": QUANTIZED_FILE,
    "int8-weights": QUANTIZED_FILE,
    "float16": "model_fp16.onnx",
}
FORMAT_NAMES: Mapping[Format, str] = {"onnx": "ONNX", "openvino": "OpenVINO"}
REQUIREMENTS_FILE = "requirements.txt"
# Largest difference from PyTorch's logits, relative to the largest logit above 1.
_TOLERANCE = 1e-4
# Sums of T5's unscaled attention grow large, and round more coarsely.
_TOLERANCE_BY_MODEL_TYPE = {"t5": 1e-3, "mt5": 1e-3, "umt5": 1e-3}
# Protocol buffers, of which an ONNX file consists, have at most 2 GiB.
_MAX_FILE_BYTES = 2**31
_SAMPLE_LENGTHS = (1, 2, 3, 8, 21, 55, 144, 377)
_EXTRA_PACKAGES: Mapping[Format, Sequence[str]] = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf"),
}
_EXTRAS: Mapping[Format, str] = {"onnx": "export", "openvino": "openvino"}
_RUNTIME_REQUIREMENTS: Mapping[Format, str] = {
    "onnx": "onnxruntime>=1.17",
    "openvino": "openvino>=2026.0",
}


def require_export_packages(export_format: Format) -> None:
    """Check that the packages of a format's extra are installed.

    Raises:
        UsageError: One isn't.
    """
    from importlib.util import find_spec

    missing = [name for name in _EXTRA_PACKAGES[export_format] if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"Exporting to {FORMAT_NAMES[export_format]} needs {' and '.join(missing)}.",
            f"Install it: pip install 'kdcli[{_EXTRAS[export_format]}]'.",
        )


def require_fast_tokenizer(tokenizer: "PreTrainedTokenizerBase", model_name: str) -> None:
    """Check that runtimes without transformers can tokenize texts.

    Raises:
        ModelError: The tokenizer is written in Python.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{model_name}: a {type(tokenizer).__name__} is written in Python and has no "
            "tokenizer.json, which runtimes without transformers read.",
            "Deploy its PyTorch folder, or take a model with a fast tokenizer.",
        )


def write_float32_file(folder: Path) -> float:
    """Write `onnx/model.onnx` into a model folder, and compare its logits with PyTorch's.

    Args:
        folder: A model folder with a fast tokenizer.

    Returns:
        The largest difference of a logit, relative to the largest logit above 1.

    Raises:
        ModelError: The model can't be exported, or the file gives other logits.
    """
    import onnx

    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    require_fast_tokenizer(tokenizer, str(folder))
    num_parameters = model_io.count_parameters(model)
    if 4 * num_parameters >= _MAX_FILE_BYTES:
        raise ModelError(
            f"{folder} has {num_parameters / 1e6:,.0f} M parameters: in float32 they don't fit "
            "into one ONNX file, which has at most 2 GiB.",
            "Distil it into a smaller student first.",
        )
    rows = _sample_rows(folder, model, tokenizer)
    collate, equal_lengths = create_collator(model, tokenizer), needs_equal_lengths(model)
    example = [rows[-1], rows[-1] if equal_lengths else rows[len(rows) // 2]]
    graph = export_onnx_graph(model, collate(example))
    set_metadata(
        graph,
        {
            PRECISION_KEY: "float32",
            PARAMETERS_KEY: num_parameters,
            EQUAL_LENGTHS_KEY: str(equal_lengths).lower(),
        },
    )
    (folder / ONNX_FOLDER).mkdir(exist_ok=True)
    path = folder / ONNX_FOLDER / FLOAT32_FILE
    _save_graph(graph, path)
    check_graph(onnx.load(str(path)), path)
    return check_logits(folder, model, tokenizer, path)


def check_logits(
    folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", path: Path
) -> float:
    """Compare an exported file's logits with PyTorch's.

    Args:
        folder: The model's folder.
        model: The model.
        tokenizer: The model's.
        path: The exported file, in float32.

    Returns:
        The largest difference of a logit, relative to the largest logit above 1.

    Raises:
        ModelError: The difference is too large.
    """
    rows, collate = _sample_rows(folder, model, tokenizer), create_collator(model, tokenizer)
    batches = _batches_to_compare(rows, equal_lengths=needs_equal_lengths(model))
    difference = _compare_with_pytorch(model, [collate(batch) for batch in batches], path)
    tolerance = _TOLERANCE_BY_MODEL_TYPE.get(model.config.model_type, _TOLERANCE)
    if not difference <= tolerance:
        raise ModelError(
            f"The exported {model.config.model_type} gives other logits than PyTorch: they differ "
            f"by {difference:.2g} of the largest, and {tolerance:g} is allowed.",
            "Deploy its PyTorch folder, or take a student of another architecture.",
        )
    return difference


def write_converted_file(folder: Path, precision: Precision) -> Path:
    """Convert `onnx/model.onnx` of a folder to another precision, and return the new file.

    Raises:
        ModelError: It can't be converted, or the result is no valid graph.
    """
    import onnx

    source = folder / ONNX_FOLDER / FLOAT32_FILE
    graph = onnx.load(str(source))
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    try:
        with silence_exporter():
            graph = CONVERTERS[precision](graph)
    except Exception as error:  # onnxruntime's converters raise several types
        raise as_resource_error(error) or ModelError(
            f"{source} can't be converted to {precision}: {first_message_line(error)}"
        ) from error
    remove_build_traces(graph)
    set_metadata(graph, metadata | {PRECISION_KEY: precision})
    path = folder / ONNX_FOLDER / FILE_NAMES[precision]
    _save_graph(graph, path)
    check_graph(onnx.load(str(path)), path)
    return path


def write_requirements(folder: Path, export_format: Format) -> None:
    """Write `requirements.txt`: the packages that `kdcli.runtime` needs."""
    # Earlier versions of tokenizers may not read what this one wrote.
    tokenizers = ".".join(version("tokenizers").split(".")[:2])
    lines = (_RUNTIME_REQUIREMENTS[export_format], "numpy>=1.26", f"tokenizers>={tokenizers}")
    (folder / REQUIREMENTS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_graph(graph: "ModelProto", path: Path) -> None:
    """Check that a graph is valid, and that runtimes find the names and axes that they expect.

    Raises:
        ModelError: It isn't.
    """
    import onnx

    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker raises several types
        raise as_resource_error(error) or ModelError(
            f"{path} is no valid ONNX graph: {first_message_line(error)}"
        ) from error
    opset = max(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    outputs = [value.name for value in graph.graph.output]
    fixed = [
        value.name
        for value in graph.graph.input
        if [bool(axis.dim_param) for axis in value.type.tensor_type.shape.dim] != [True, True]
    ]
    if outputs != ["logits"] or fixed or opset > OPSET_VERSION or graph.ir_version > IR_VERSION:
        raise ModelError(
            f"{path}: outputs {outputs}, fixed axes of {fixed}, opset {opset} and IR "
            f"{graph.ir_version}; expected were the output logits, no fixed axes, opset "
            f"{OPSET_VERSION} and IR {IR_VERSION}."
        )


def _save_graph(graph: "ModelProto", path: Path) -> None:
    with open_atomically(path) as file:
        file.write(graph.SerializeToString())


def _sample_rows(
    folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> list[dict[str, Any]]:
    """Tokenize texts of random tokens, of many lengths, the shortest first."""
    saved = inference_config.load_input_truncation(folder)
    max_length = get_max_length(model, tokenizer, saved.max_length)
    ids = sorted({*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids})
    generator = np.random.default_rng(0)
    lengths = [length for length in _SAMPLE_LENGTHS if length < max_length]
    texts = [tokenizer.decode(generator.choice(ids, length)) for length in lengths or [1]]
    rows = encoding_to_rows(tokenize_texts(tokenizer, [texts], max_length))
    rows = [row for row in rows if row["input_ids"]]
    return sorted(rows, key=lambda row: len(row["input_ids"]))


def _batches_to_compare(
    rows: Sequence[dict[str, Any]], *, equal_lengths: bool
) -> Iterator[Sequence[dict[str, Any]]]:
    """Yield each row alone, then batches: of all rows, or of copies where padding is not read."""
    yield from ([row] for row in rows)
    if equal_lengths:
        yield from ([row] * 3 for row in rows)
    else:
        yield rows
        yield rows[: max(2, len(rows) // 2)][::-1]


def _compare_with_pytorch(
    model: "PreTrainedModel", batches: Sequence[Mapping[str, torch.Tensor]], path: Path
) -> float:
    """Compute the largest difference of a logit, relative to the largest logit above 1."""
    session = load_session(path, torch.get_num_threads())
    difference, largest = 0.0, 1.0
    for batch in batches:
        with torch.inference_mode():
            expected = model(**batch).logits.float().numpy()
        try:
            logits = session.run({name: batch[name].numpy() for name in session.input_names})
        except Exception as error:  # onnxruntime has an exception type for each of its causes
            lengths = [*batch["input_ids"].shape]
            raise as_resource_error(error) or ModelError(
                f"The exported {model.config.model_type} can't read {lengths[0]} texts of "
                f"{lengths[1]} tokens: {first_message_line(error)}",
                "Deploy its PyTorch folder, or take a student of another architecture.",
            ) from error
        if logits.shape != expected.shape:
            return math.inf
        difference = max(difference, float(np.abs(logits - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return difference / largest
