"""What evaluation settles and the model carries along: a temperature and thresholds.

They stand in `kd.json` in the model's folder. transformers passes it over; kd applies it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from kdcli.errors import ModelError
from kdcli.evaluation.metrics import out_of_scope
from kdcli.recipe.data import TruncationMode

INFERENCE_CONFIG_FILENAME = "kd.json"


@dataclass(frozen=True)
class OutOfScopeThreshold:
    """When a text is refused, that is, labelled out of scope: where its score is too low.

    Attributes:
        label: The out-of-scope label.
        score: One of `kdcli.evaluation.scope.SCORES`.
        threshold: A text whose score is below it is refused.
        refuse_at_most: The share of in-scope texts that it was allowed to refuse where it was
            chosen.
    """

    label: str
    score: str
    threshold: float
    refuse_at_most: float

    def predict_with_refusal(self, logits: np.ndarray, out_of_scope_id: int) -> np.ndarray:
        """Class ids, (texts,): the best in-scope label, or that of the texts that are refused.

        Args:
            logits: (texts, classes).
            out_of_scope_id: The out-of-scope label's id.
        """
        refused = out_of_scope.in_scope_score(self.score, logits, out_of_scope_id) < self.threshold
        inside = logits.copy()
        inside[:, out_of_scope_id] = -np.inf
        return np.where(refused, out_of_scope_id, inside.argmax(-1))


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


def choose_out_of_scope_thresholds(
    logits: np.ndarray,
    references: np.ndarray,
    out_of_scope_id: int,
    out_of_scope_label: str,
    refusal_budgets: Sequence[float],
) -> list[OutOfScopeThreshold]:
    """For each budget of refused in-scope texts, the threshold that refuses the most.

    It is on the score that separates best on the same texts; on the probability, where they
    hold none that is out of scope.

    Args:
        logits: (texts, classes), of validation texts.
        references: (texts,) class ids.
        out_of_scope_id: The out-of-scope label's id.
        out_of_scope_label: Its name.
        refusal_budgets: Shares of the in-scope texts, between 0 and 1.

    Returns:
        Nothing where no text is in scope.
    """
    outside = references == out_of_scope_id
    if outside.all():
        return []
    scores = {
        n: out_of_scope.in_scope_score(n, logits, out_of_scope_id) for n in out_of_scope.SCORE_NAMES
    }
    best = out_of_scope.SCORE_NAMES[0]
    if outside.any():
        best = max(
            scores,
            key=lambda n: out_of_scope.out_of_scope_detection_metrics(scores[n], outside)["auroc"],
        )
    chosen = (threshold_within_budget(scores[best], ~outside, share) for share in refusal_budgets)
    return [
        OutOfScopeThreshold(out_of_scope_label, best, value, share)
        for value, share in zip(chosen, refusal_budgets, strict=True)
    ]


def threshold_within_budget(
    scores: np.ndarray, is_in_scope: np.ndarray, refuse_at_most: float
) -> float:
    """Return the threshold that refuses the most texts within the budget.

    It lies halfway between the lowest score that is kept and the highest that is refused, so that
    rounding in another batch or on another machine changes no decision on these texts.

    Args:
        scores: (texts,) of all texts.
        is_in_scope: (texts,) whether a text is in scope; some are.
        refuse_at_most: The share of in-scope texts that may be refused, from 0 up to but not
            including 1.
    """
    of_inside = scores[is_in_scope]
    count = len(of_inside)
    # Compare quotients, not products: 29 / 100 is the number that a person writes as 0.29, but
    # 0.29 * 100 is less than 29.
    allowed = np.count_nonzero(np.arange(1, count) / count <= refuse_at_most)
    kept = np.partition(of_inside, allowed)[allowed]
    below, above = scores[scores < kept], scores[scores > kept]
    if len(below):
        gap = kept - below.max()
    else:  # Nothing is refused: the margin is that to the next score above.
        gap = above.min() - kept if len(above) else np.abs(kept) or 1.0
    middle = kept - gap / 2
    # Of two neighbouring floating-point numbers the middle is one of the two.
    return float(middle if not len(below) or middle > below.max() else kept)


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
