"""Contents of `kd.json`: temperature, thresholds and truncation, saved with a model.

kd applies them; transformers ignores the file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from kdcli.errors import ModelError
from kdcli.evaluation.calibration.out_of_scope_threshold import OutOfScopeThreshold
from kdcli.evaluation.metrics import out_of_scope
from kdcli.recipe.data import TruncationMode

INFERENCE_CONFIG_FILENAME = "kd.json"


@dataclass(frozen=True)
class Calibration:
    """Temperature and thresholds of a model.

    Attributes:
        temperature: Divides the logits, so that the probabilities are calibrated.
        operating_point: The out-of-scope threshold; None without an out-of-scope label.
        thresholds: For multi-label models, the lowest probability at which a label is predicted,
            by its name.
    """

    temperature: float
    operating_point: OutOfScopeThreshold | None = None
    thresholds: Mapping[str, float] | None = None


@dataclass(frozen=True)
class CalibrationResult:
    """Result of a calibration on validation texts.

    Attributes:
        calibration: Temperature and thresholds of the model.
        alternative_operating_points: Out-of-scope thresholds for other budgets.
    """

    calibration: Calibration
    alternative_operating_points: Sequence[OutOfScopeThreshold] = ()


@dataclass(frozen=True)
class InputTruncation:
    """Truncation of texts in a model's training.

    Attributes:
        max_length: The number of tokens that the model reads of a text.
        truncate: The tokens to keep of a longer text; None for the tokenizer's default.
    """

    max_length: int | None = None
    truncate: TruncationMode | None = None


def format_inference_config(calibration: Calibration, truncation: InputTruncation) -> str:
    """Format the content of `kd.json`."""
    content = asdict(calibration) | asdict(truncation)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def load_calibration(folder: Path) -> Calibration | None:
    """Load temperature and thresholds from a model folder; None without a `kd.json`.

    Raises:
        ModelError: `kd.json` is invalid.
    """
    config = _read_inference_config(folder)
    return None if config is None else config[0]


def load_input_truncation(folder: Path) -> InputTruncation:
    """Load the truncation that a model was trained with, empty without a `kd.json`.

    Raises:
        ModelError: `kd.json` is invalid.
    """
    config = _read_inference_config(folder)
    return InputTruncation() if config is None else config[1]


def _read_inference_config(folder: Path) -> tuple[Calibration, InputTruncation] | None:
    file = folder / INFERENCE_CONFIG_FILENAME
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return parse_calibration(content), _parse_input_truncation(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} is damaged: temperature, thresholds or truncation are missing or invalid.",
            "Delete it; kd then calibrates the model on validation texts.",
        ) from error


def parse_calibration(content: Mapping[str, Any]) -> Calibration:
    """Parse the content of `kd.json`, or the `settings` of a model in `evaluation.json`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: The content is invalid.
    """
    temperature, point = float(content["temperature"]), content["operating_point"]
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(temperature)
    if point is None:
        return Calibration(
            temperature, thresholds=_parse_label_thresholds(content.get("thresholds"))
        )
    threshold = OutOfScopeThreshold(
        label=str(point["label"]),
        score=point["score"],
        threshold=float(point["threshold"]),
        refuse_at_most=float(point["refuse_at_most"]),
    )
    if threshold.score not in out_of_scope.SCORE_NAMES or not math.isfinite(threshold.threshold):
        raise ValueError(threshold)
    return Calibration(temperature, threshold)


def _parse_input_truncation(content: Mapping[str, Any]) -> InputTruncation:
    length, truncate = content.get("max_length"), content.get("truncate")
    if not (length is None or (type(length) is int and length > 0)):
        raise ValueError(length)
    if truncate not in (None, *get_args(TruncationMode)):
        raise ValueError(truncate)
    return InputTruncation(length, truncate)


def _parse_label_thresholds(content: Any) -> dict[str, float] | None:
    if content is None:
        return None
    thresholds = {str(label): float(threshold) for label, threshold in content.items()}
    if not all(0 <= threshold <= 1 for threshold in thresholds.values()):
        raise ValueError(thresholds)
    return thresholds
