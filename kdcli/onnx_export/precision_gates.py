"""Choose the precision of an export: the first that passes the quality gates on validation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data import column_access
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import ModelError
from kdcli.evaluation.ci.quality_gates import (
    GateResult,
    QualityGate,
    check_quality_gates,
    parse_quality_gate,
)
from kdcli.evaluation.compare import compare_models
from kdcli.evaluation.output.evaluation_schema import EXPORT_SUFFIXES, STUDENT
from kdcli.evaluation.predict.calibrated_predictions import VALIDATION
from kdcli.evaluation.predict.eval_models import load_onnx_classifier
from kdcli.onnx_export import onnx_folder
from kdcli.onnx_export.onnx_folder import FILE_NAMES
from kdcli.progress import Reporter, SilentReporter
from kdcli.recipe.data import TruncationMode
from kdcli.recipe.export import ExportConfig, Precision
from kdcli.recipe.schema import EvaluateConfig
from kdcli.runtime import FLOAT32_FILE, ONNX_FOLDER
from kdcli.safe_files import write_text_atomically
from kdcli.tasks import SINGLE_LABEL

EXPORT_FILE = "export.json"
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
        file: The ONNX file with this precision, in the folder `onnx`.
        megabytes: Its size, in megabytes of 1,000,000 bytes.
        largest_difference: Of a float32 logit from PyTorch's, relative to the largest.
        validation: Measured against the PyTorch model on validation: `texts`, `changed_labels`
            (with one label per text), `drops` (each gate's value), and `batch_changes`, the texts
            whose label changes in batches of 32. None for float32, or without texts.
        rejected: A sentence for each precision that missed a gate.
    """

    precision: Precision
    file: str
    megabytes: float
    largest_difference: float
    validation: Mapping[str, Any] | None = None
    rejected: Sequence[str] = ()


def export_to_onnx(
    folder: Path, config: ExportConfig, texts: ExportTexts | None, reporter: Reporter
) -> ExportResult:
    """Write ONNX files into a model folder, in the first precision that passes the gates.

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
    onnx_folder.require_export_packages()
    gates = parse_gates(config, texts)
    difference = onnx_folder.write_float32_file(folder)
    rejected: list[str] = []
    for precision in _FALLBACKS[config.precision]:
        path, validation = folder / ONNX_FOLDER / FLOAT32_FILE, None
        if precision != "float32":
            path = onnx_folder.write_converted_file(folder, precision)
            if texts is not None:
                validation, missed = _check_precision(folder, path, precision, texts, gates)
                if missed:
                    path.unlink()
                    rejected.append(_describe_rejection(precision, missed))
                    reporter.info(rejected[-1])
                    continue
        megabytes = path.stat().st_size / 1e6
        result = ExportResult(
            precision, path.name, megabytes, difference, validation, tuple(rejected)
        )
        text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
        write_text_atomically(folder / ONNX_FOLDER / EXPORT_FILE, text + "\n")
        return result
    raise AssertionError("float32 has no gates")


def parse_gates(config: ExportConfig, texts: ExportTexts | None) -> list[QualityGate]:
    """Parse the gates of an export; by default the primary metric may drop by 0.005.

    Raises:
        UsageError: A gate is invalid.
    """
    if texts is None:
        return []
    metric = texts.dataset_splits.task.primary_metric
    stated = config.max_drop or (f"{metric}={DEFAULT_MAX_DROP}",)
    return [parse_quality_gate("--max-drop", text) for text in stated]


def find_exported_file(folder: Path) -> tuple[str, Path] | None:
    """Find the ONNX file that was exported into a model folder.

    Returns:
        The suffix of the exported model's name, and the file; None if there is none.

    Raises:
        ModelError: `onnx/export.json` is damaged.
    """
    file = folder / ONNX_FOLDER / EXPORT_FILE
    if not file.is_file():
        return None
    try:
        precision = json.loads(file.read_text(encoding="utf-8"))["precision"]
        return EXPORT_SUFFIXES[precision], folder / ONNX_FOLDER / FILE_NAMES[precision]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file} is damaged: it names no precision.", "Delete it, or export the model again."
        ) from error


def _check_precision(
    folder: Path,
    path: Path,
    precision: Precision,
    texts: ExportTexts,
    gates: Sequence[QualityGate],
) -> tuple[dict[str, Any], list[GateResult]]:
    """Measure a file against the PyTorch model; return the figures and the gates it missed."""
    name = STUDENT + EXPORT_SUFFIXES[precision]
    config = texts.config.model_copy(update={"splits": (VALIDATION,)})
    comparison = compare_models(
        {STUDENT: folder, name: path},
        texts.dataset_splits,
        config,
        texts.max_length,
        SilentReporter(),
        truncate=texts.truncation,
        reference_model=STUDENT,
    )
    results = check_quality_gates(gates, comparison.evaluation)
    figures: dict[str, Any] = {
        "texts": comparison.evaluation["examples"][VALIDATION],
        "drops": {result.gate.metric: result.value for result in results},
        "batch_changes": _count_batch_changes(path, texts),
    }
    if texts.dataset_splits.task is SINGLE_LABEL:
        predictions = comparison.predictions[VALIDATION]
        changed = predictions[STUDENT].predicted != predictions[name].predicted
        figures["changed_labels"] = int(np.count_nonzero(changed))
    return figures, [result for result in results if not result.passed]


def _count_batch_changes(path: Path, texts: ExportTexts) -> int:
    """Count the validation texts whose highest output changes in a batch of 32."""
    classifier = load_onnx_classifier(path, texts.max_length, texts.truncation)
    tuples = column_access.get_text_tuples(texts.dataset_splits.splits[VALIDATION])
    rows = [columns[0] if len(columns) == 1 else columns[:2] for columns in tuples]
    alone, batched = (
        classifier.predict_logits(rows, batch_size=size).argmax(-1)  # type: ignore[arg-type]
        for size in (1, _BATCH_SIZE)
    )
    return int(np.count_nonzero(alone != batched))


def _describe_rejection(precision: Precision, missed: Sequence[GateResult]) -> str:
    drops = " and ".join(f"{each.gate.metric} by {each.value:.4f}" for each in missed)
    limits = " and ".join(f"{each.gate.limit:g}" for each in missed)
    return f"{precision} lowers {drops} on validation, more than {limits}: a safer format is tried."
