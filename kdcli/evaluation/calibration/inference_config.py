"""What evaluation settles and the model carries along: a temperature and thresholds.

They stand in `kd.json` in the model's folder. transformers passes it over; kd applies it.
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
    """What a model carries along.

    Attributes:
        temperature: Divides the logits, so that the probabilities are worth what they say.
        operating_point: None where no label is named out of scope.
        thresholds: Where a text may have several labels, the probability from which on each is
            given, by its name.
    """

    temperature: float
    operating_point: OutOfScopeThreshold | None = None
    thresholds: Mapping[str, float] | None = None


@dataclass(frozen=True)
class CalibrationResult:
    """What validation texts have settled.

    Attributes:
        calibration: What the model is to carry along.
        alternative_operating_points: Its out-of-scope threshold at other budgets.
    """

    calibration: Calibration
    alternative_operating_points: Sequence[OutOfScopeThreshold] = ()


@dataclass(frozen=True)
class InputTruncation:
    """How a model was trained to read texts.

    Attributes:
        max_length: Tokens that it sees of a text.
        truncate: Which, of a longer one; None is as its tokenizer has it.
    """

    max_length: int | None = None
    truncate: TruncationMode | None = None


def format_inference_config(calibration: Calibration, truncation: InputTruncation) -> str:
    """The content of `kd.json`."""
    content = asdict(calibration) | asdict(truncation)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def load_calibration(folder: Path) -> Calibration | None:
    """What the model in `folder` carries along; None where it carries nothing.

    Raises:
        ModelError: Its `kd.json` is damaged.
    """
    found = _read_inference_config(folder)
    return None if found is None else found[0]


def load_input_truncation(folder: Path) -> InputTruncation:
    """How the model in `folder` was trained to read texts, as far as it says so.

    Raises:
        ModelError: Its `kd.json` is damaged.
    """
    found = _read_inference_config(folder)
    return InputTruncation() if found is None else found[1]


def _read_inference_config(folder: Path) -> tuple[Calibration, InputTruncation] | None:
    file = folder / INFERENCE_CONFIG_FILENAME
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return parse_calibration(content), _parse_input_truncation(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} is damaged: it doesn't say how the model is to be used.",
            "Delete it: both are then chosen on validation texts.",
        ) from error


def parse_calibration(content: Mapping[str, Any]) -> Calibration:
    """From what `kd.json` holds, or an evaluation's document of a model.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It isn't of that form.
    """
    temperature, point = float(content["temperature"]), content["operating_point"]
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(temperature)
    if point is None:
        return Calibration(
            temperature, thresholds=_parse_label_thresholds(content.get("thresholds"))
        )
    made = OutOfScopeThreshold(
        label=str(point["label"]),
        score=point["score"],
        threshold=float(point["threshold"]),
        refuse_at_most=float(point["refuse_at_most"]),
    )
    if made.score not in out_of_scope.SCORE_NAMES or not math.isfinite(made.threshold):
        raise ValueError(made)
    return Calibration(temperature, made)


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
    found = {str(label): float(threshold) for label, threshold in content.items()}
    if not all(0 <= threshold <= 1 for threshold in found.values()):
        raise ValueError(found)
    return found
