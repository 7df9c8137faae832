"""Convert an exported ONNX file to OpenVINO, in 32, 16 or 8 bits.

- `int8` quantizes weights and activations with scales that are fixed by sample texts, so that an
  answer does not depend on the batch (NNCF's post-training quantization).
- `int8-weights` quantizes weights alone.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.tokenization.tokenize import tokenize_texts
from kdcli.errors import ModelError, as_resource_error, first_message_line
from kdcli.evaluation.calibration import inference_config
from kdcli.inference_sessions import OPENVINO_SECTION, OPENVINO_SUFFIX
from kdcli.models import model_io
from kdcli.models.sequence_length import get_max_length
from kdcli.onnx_export import onnx_folder
from kdcli.onnx_export.onnx_graph import silence_exporter
from kdcli.recipe.export import Precision
from kdcli.runtime import FLOAT32_FILE, ONNX_FOLDER, PRECISION_KEY

if TYPE_CHECKING:
    import openvino
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The name that optimum-intel looks for.
OPENVINO_FILE = f"openvino_model{OPENVINO_SUFFIX}"
NUM_CALIBRATION_TEXTS = 300


def write_openvino_file(
    folder: Path, precision: Precision, calibration_texts: Sequence[Sequence[str]]
) -> None:
    """Convert `onnx/model.onnx` of a folder to `onnx/openvino_model.xml` and `.bin`.

    Args:
        folder: A model folder.
        precision: The precision of the weights.
        calibration_texts: Texts like those of use, one column or two of pairs; for `int8`.

    Raises:
        ModelError: The model can't be converted, or in float32 gives other logits than PyTorch.
    """
    import openvino

    source, path = folder / ONNX_FOLDER / FLOAT32_FILE, folder / ONNX_FOLDER / OPENVINO_FILE
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    try:
        with _silent_nncf():
            graph = openvino.Core().read_model(str(source))
            rows = _calibration_rows(folder, model, tokenizer, graph, calibration_texts)
            graph = _quantize(graph, precision, rows)
            graph.set_rt_info(precision, [OPENVINO_SECTION, PRECISION_KEY])
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                new = Path(scratch) / OPENVINO_FILE
                openvino.save_model(graph, str(new), compress_to_fp16=precision == "float16")
                for file in (new.with_suffix(".bin"), new):
                    shutil.move(file, path.parent / file.name)
    except Exception as error:  # OpenVINO and NNCF raise several types
        raise as_resource_error(error) or ModelError(
            f"{source} can't be converted to OpenVINO in {precision}: {first_message_line(error)}"
        ) from error
    if precision == "float32":
        onnx_folder.check_logits(folder, model, tokenizer, path)


def _quantize(
    graph: "openvino.Model", precision: Precision, rows: Sequence[Mapping[str, np.ndarray]]
) -> "openvino.Model":
    if precision not in ("int8", "int8-weights"):
        return graph
    import nncf

    if precision == "int8-weights":
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
    return nncf.quantize(
        graph,
        nncf.Dataset(rows),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=max(1, len(rows)),
    )


def _calibration_rows(
    folder: Path,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    graph: "openvino.Model",
    texts: Sequence[Sequence[str]],
) -> list[dict[str, np.ndarray]]:
    """Tokenize each text (or window) as a batch of its own."""
    saved = inference_config.load_input_truncation(folder)
    limit = get_max_length(model, tokenizer, saved.max_length)
    encoding = tokenize_texts(tokenizer, texts, limit, saved.truncate) if texts else {}
    names = [each.get_any_name() for each in graph.inputs]
    columns: list[Any] = [encoding.get(name, []) for name in names]
    return [
        {name: np.array([ids], dtype=np.int64) for name, ids in zip(names, row, strict=True)}
        for row in zip(*columns, strict=True)
        if len(row[0])
    ]


@contextmanager
def _silent_nncf() -> Iterator[None]:
    """Within the block NNCF draws no progress bars; it never sends telemetry."""
    # Read when NNCF is imported: its telemetry asks nobody.
    os.environ.setdefault("NNCF_CI", "1")
    with silence_exporter(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
