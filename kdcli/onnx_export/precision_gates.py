"""Choose the precision of an export: the first that passes the quality gates on validation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data import column_access
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.ci.quality_gates import (
    GateResult,
    QualityGate,
    check_quality_gates,
    parse_quality_gate,
)
from kdcli.evaluation.compare import compare_models
from kdcli.evaluation.metrics.metric_catalog import HIGHER_IS_BETTER_BY_TASK
from kdcli.evaluation.output.evaluation_schema import STUDENT, exported_model_suffix
from kdcli.evaluation.predict.calibrated_predictions import VALIDATION
from kdcli.evaluation.predict.eval_models import load_onnx_classifier
from kdcli.onnx_export import onnx_folder, openvino_files
from kdcli.progress import Reporter, SilentReporter
from kdcli.recipe.data import TruncationMode
from kdcli.recipe.export import ExportConfig, Format, Precision
from kdcli.recipe.schema import EvaluateConfig
from kdcli.runtime import EXPORT_FILE, FLOAT32_FILE, ONNX_FOLDER, Classifier
from kdcli.safe_files import write_text_atomically
from kdcli.tasks import REGRESSION, Task

DEFAULT_MAX_DROP = 0.005
# The precisions to try, in order, by the one that is asked for.
_FALLBACKS: Mapping[Precision, tuple[Precision, ...]] = {
    "int8": ("int8", "int8-weights", "float32"),
    "int8-weights": ("int8-weights", "float32"),
    "float16": ("float16", "float32"),
    "float32": ("float32",),
}
_BATCH_SIZE = 32


@dataclass(frozen=True)
class ExportTexts:
    """Texts and settings to check a precision on.

    Attributes:
        dataset_splits: A data set with a validation split.
        config: The recipe's `evaluate`.
        max_length: Tokens to keep of a text; None for the model's own limit.
        truncation: Tokens to keep of a longer text.
    """

    dataset_splits: DatasetSplits
    config: EvaluateConfig
    max_length: int | None = None
    truncation: TruncationMode | None = None


@dataclass(frozen=True)
class ExportResult:
    """Outcome of an export, the content of `onnx/export.json`.

    Attributes:
        precision: The precision that was chosen.
        file: The file with this precision, in the folder `onnx`.
        megabytes: Its size, with OpenVINO's weights, in megabytes of 1,000,000 bytes.
        largest_difference: Of a float32 logit from PyTorch's, relative to the largest.
        validation: Measured against the PyTorch model on validation: `texts`, `drops` (each gate's
            value), and unless the model scores texts, `changed_labels` (texts with other labels)
            and `batch_changes` (texts whose labels change in batches of 32). None for float32, or
            without texts.
        rejected: A sentence for each precision that missed a gate.
        format: The format of the file.
    """

    precision: Precision
    file: str
    megabytes: float
    largest_difference: float
    validation: Mapping[str, Any] | None = None
    rejected: Sequence[str] = ()
    format: Format = "onnx"


def export_to_onnx(
    folder: Path, config: ExportConfig, texts: ExportTexts | None, reporter: Reporter
) -> ExportResult:
    """Write a model's exported files into its folder, in the first precision that passes the gates.

    `onnx/model.onnx`, in float32, is written in any case.

    Args:
        folder: A model folder.
        config: The precision to try first, and the gates.
        texts: Texts to check precisions other than float32 on; None skips the check.
        reporter: Receives a sentence for each precision that is rejected.

    Raises:
        ModelError: The model can't be exported.
        UsageError: Packages are missing, or a gate is invalid.
    """
    onnx_folder.require_export_packages(config.format)
    gates = [] if texts is None else parse_gates(config, texts.dataset_splits.task)
    difference = onnx_folder.write_float32_file(folder)
    rejected: list[str] = []
    for precision in _FALLBACKS[config.precision]:
        path, validation = _exported_path(folder, config.format, precision), None
        if path.name != FLOAT32_FILE:
            fault = None
            try:
                _write_file(folder, config.format, precision, texts)
                if texts is not None:
                    validation, fault = _check_precision(folder, path, precision, texts, gates)
            except ModelError as error:  # float16 may overflow, and a converter fail
                fault = f"{precision} can't be used: {error.message}"
            if fault is not None:
                _remove_file(path)
                rejected.append(fault)
                reporter.info(f"{fault} A safer format is tried.")
                continue
        megabytes = Classifier(folder, file=path.name).num_bytes / 1e6
        result = ExportResult(
            precision,
            path.name,
            megabytes,
            difference,
            validation,
            tuple(rejected),
            config.format,
        )
        text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
        write_text_atomically(folder / ONNX_FOLDER / EXPORT_FILE, text + "\n")
        return result
    raise AssertionError("float32 has no gates")


def parse_gates(config: ExportConfig, task: Task) -> list[QualityGate]:
    """Parse the gates of an export; by default the primary metric may drop by 0.005.

    Raises:
        UsageError: A gate is invalid, or not on a metric of the task on validation.
    """
    stated = config.max_drop or (f"{task.primary_metric}={DEFAULT_MAX_DROP}",)
    gates = [parse_quality_gate("--max-drop", text) for text in stated]
    for gate in gates:
        if gate.split not in (None, VALIDATION) or gate.metric not in (
            known := HIGHER_IS_BETTER_BY_TASK[task.name]
        ):
            raise UsageError(
                f"{gate}: an export is checked on validation, by a metric of {task}.",
                f"Known metrics: {', '.join(known)}.",
            )
    return gates


def find_exported_file(folder: Path) -> tuple[str, Path] | None:
    """Find the file that was exported into a model folder.

    Returns:
        The suffix of the exported model's name, and the file; None if there is none.

    Raises:
        ModelError: `onnx/export.json` is damaged.
    """
    file = folder / ONNX_FOLDER / EXPORT_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return exported_model_suffix(content), folder / ONNX_FOLDER / Path(content["file"]).name
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file} is damaged: it names no file.", "Delete it, or export the model again."
        ) from error


def _exported_path(folder: Path, export_format: Format, precision: Precision) -> Path:
    is_onnx = export_format == "onnx"
    name = onnx_folder.FILE_NAMES[precision] if is_onnx else openvino_files.OPENVINO_FILE
    return folder / ONNX_FOLDER / name


def _write_file(
    folder: Path, export_format: Format, precision: Precision, texts: ExportTexts | None
) -> None:
    """Write the exported file of a format and precision.

    Raises:
        ModelError: The model can't be converted.
    """
    if export_format == "onnx":
        onnx_folder.write_converted_file(folder, precision)
        return
    calibration: list[list[str]] = []
    if texts is not None:
        splits = texts.dataset_splits.splits
        split = splits.get("train", splits[VALIDATION])
        calibration = column_access.sample_texts(split, openvino_files.NUM_CALIBRATION_TEXTS)
    openvino_files.write_openvino_file(folder, precision, calibration)


def _remove_file(path: Path) -> None:
    for file in (path, path.with_suffix(".bin")):
        file.unlink(missing_ok=True)


def _check_precision(
    folder: Path,
    path: Path,
    precision: Precision,
    texts: ExportTexts,
    gates: Sequence[QualityGate],
) -> tuple[dict[str, Any], str | None]:
    """Measure a file against the PyTorch model; return the figures, and why it is rejected."""
    name, task = STUDENT + path.suffix, texts.dataset_splits.task
    # Times are measured later, beside the other models.
    config = texts.config.model_copy(update={"splits": (VALIDATION,), "latency_texts": 1})
    comparison = compare_models(
        {STUDENT: folder, name: path},
        texts.dataset_splits,
        config,
        texts.max_length,
        SilentReporter(),
        truncate=texts.truncation,
        reference_model=STUDENT,
        exported_from={name: STUDENT},
    )
    results = check_quality_gates(gates, comparison.evaluation)
    predictions = comparison.predictions[VALIDATION]
    figures: dict[str, Any] = {
        "texts": comparison.evaluation["examples"][VALIDATION],
        "drops": {result.gate.metric: result.value for result in results},
    }
    if task is not REGRESSION:
        figures["changed_labels"] = _count_differences(
            predictions[STUDENT].predicted, predictions[name].predicted
        )
        figures["batch_changes"] = _count_batch_changes(path, texts)
    missed = [result for result in results if not result.passed]
    return figures, _describe_rejection(precision, missed) if missed else None


def _count_batch_changes(path: Path, texts: ExportTexts) -> int:
    """Count the validation texts whose predicted labels change in a batch of 32."""
    classifier = load_onnx_classifier(path, texts.max_length, texts.truncation)
    tuples = column_access.get_text_tuples(texts.dataset_splits.splits[VALIDATION])
    rows = [columns[0] if len(columns) == 1 else (columns[0], columns[1]) for columns in tuples]
    predict = texts.dataset_splits.task.predict
    alone, batched = (
        predict(classifier.predict_logits(rows, batch_size=size)) for size in (1, _BATCH_SIZE)
    )
    return _count_differences(alone, batched)


def _count_differences(first: np.ndarray, second: np.ndarray) -> int:
    """Count the texts whose predictions, (texts,) or (texts, labels), differ."""
    differs = first != second
    return int(np.count_nonzero(differs if differs.ndim == 1 else differs.any(-1)))


def _describe_rejection(precision: Precision, missed: Sequence[GateResult]) -> str:
    drops = " and ".join(f"{each.gate.metric} by {each.value:.4f}" for each in missed)
    limits = " and ".join(f"{each.gate.limit:g}" for each in missed)
    return f"{precision} lowers {drops} on validation, more than {limits}."
