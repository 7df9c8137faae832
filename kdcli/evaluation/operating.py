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
from kdcli.evaluation import scope
from kdcli.recipe.data import Keep

FILE = "kd.json"


@dataclass(frozen=True)
class OperatingPoint:
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

    def predict(self, logits: np.ndarray, label: int) -> np.ndarray:
        """Class ids, (texts,): the best in-scope label, or that of the texts that are refused.

        Args:
            logits: (texts, classes).
            label: The out-of-scope label's id.
        """
        refused = scope.score(self.score, logits, label) < self.threshold
        inside = logits.copy()
        inside[:, label] = -np.inf
        return np.where(refused, label, inside.argmax(-1))


@dataclass(frozen=True)
class Settings:
    """What a model carries along.

    Attributes:
        temperature: Divides the logits, so that the probabilities are worth what they say.
        operating_point: None where no label is named out of scope.
        thresholds: Where a text may have several labels, the probability from which on each is
            given, by its name.
    """

    temperature: float
    operating_point: OperatingPoint | None = None
    thresholds: Mapping[str, float] | None = None


def choose(
    logits: np.ndarray, references: np.ndarray, label: int, name: str, budgets: Sequence[float]
) -> list[OperatingPoint]:
    """For each budget of refused in-scope texts, the threshold that refuses the most.

    It is on the score that separates best on the same texts; on the probability, where they
    hold none that is out of scope.

    Args:
        logits: (texts, classes), of validation texts.
        references: (texts,) class ids.
        label: The out-of-scope label's id.
        name: Its name.
        budgets: Shares of the in-scope texts, between 0 and 1.

    Returns:
        Nothing where no text is in scope.
    """
    outside = references == label
    if outside.all():
        return []
    scores = {n: scope.score(n, logits, label) for n in scope.SCORES}
    best = scope.SCORES[0]
    if outside.any():
        best = max(scores, key=lambda n: scope.separation(scores[n], outside)["auroc"])
    chosen = (threshold(scores[best], ~outside, share) for share in budgets)
    return [
        OperatingPoint(name, best, value, share)
        for value, share in zip(chosen, budgets, strict=True)
    ]


def threshold(scores: np.ndarray, inside: np.ndarray, refuse_at_most: float) -> float:
    """Return the threshold that refuses the most texts within the budget.

    It lies halfway between the lowest score that is kept and the highest that is refused, so that
    rounding in another batch or on another machine changes no decision on these texts.

    Args:
        scores: (texts,) of all texts.
        inside: (texts,) whether a text is in scope; some are.
        refuse_at_most: The share of in-scope texts that may be refused, from 0 up to but not
            including 1.
    """
    of_inside = scores[inside]
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
class Reading:
    """How a model was trained to read texts.

    Attributes:
        max_length: Tokens that it sees of a text.
        truncate: Which, of a longer one; None is as its tokenizer has it.
    """

    max_length: int | None = None
    truncate: Keep | None = None


def write(settings: Settings, reading: Reading) -> str:
    """The content of `kd.json`."""
    content = asdict(settings) | asdict(reading)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read(folder: Path) -> Settings | None:
    """What the model in `folder` carries along; None where it carries nothing.

    Raises:
        ModelError: Its `kd.json` is damaged.
    """
    found = _read(folder)
    return None if found is None else found[0]


def reading(folder: Path) -> Reading:
    """How the model in `folder` was trained to read texts, as far as it says so.

    Raises:
        ModelError: Its `kd.json` is damaged.
    """
    found = _read(folder)
    return Reading() if found is None else found[1]


def _read(folder: Path) -> tuple[Settings, Reading] | None:
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return settings(content), _reading(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} is damaged: it doesn't say how the model is to be used.",
            "Delete it: both are then chosen on validation texts.",
        ) from error


def settings(content: Mapping[str, Any]) -> Settings:
    """From what `kd.json` holds, or an evaluation's document of a model.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It isn't of that form.
    """
    temperature, point = float(content["temperature"]), content["operating_point"]
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(temperature)
    if point is None:
        return Settings(temperature, thresholds=_thresholds(content.get("thresholds")))
    made = OperatingPoint(
        label=str(point["label"]),
        score=point["score"],
        threshold=float(point["threshold"]),
        refuse_at_most=float(point["refuse_at_most"]),
    )
    if made.score not in scope.SCORES or not math.isfinite(made.threshold):
        raise ValueError(made)
    return Settings(temperature, made)


def _reading(content: Mapping[str, Any]) -> Reading:
    length, truncate = content.get("max_length"), content.get("truncate")
    if not (length is None or (type(length) is int and length > 0)):
        raise ValueError(length)
    if truncate not in (None, *get_args(Keep)):
        raise ValueError(truncate)
    return Reading(length, truncate)


def _thresholds(content: Any) -> dict[str, float] | None:
    if content is None:
        return None
    found = {str(label): float(threshold) for label, threshold in content.items()}
    if not all(0 <= threshold <= 1 for threshold in found.values()):
        raise ValueError(found)
    return found
