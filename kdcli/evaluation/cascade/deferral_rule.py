"""Choose the confidence below which a student defers to its teacher.

The rule promises that the cascade's accuracy is at most `max_drop` below the teacher's. It bounds
the share of texts that the student answers and harms: the student is wrong and the teacher right.
The drop is this share less the texts where it is the other way round, so it is no larger.

Candidate thresholds are fixed beforehand and tested from the safest on, each by an exact binomial
test of the harmed texts among the validation texts; the first that fails ends the search (Learn
then Test with fixed-sequence testing: Angelopoulos et al. 2021, arXiv:2110.01052, section 2.3).
With the stated confidence over draws of the validation set, no threshold is chosen whose share is
larger, provided that the texts of use are drawn like those of validation.

Where there is an out-of-scope label, its texts are often more frequent in use than in validation.
The promise is therefore made for texts in scope and out of scope separately, each with half of the
error probability; out of scope only if validation has enough texts to tell.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import binom, binomtest

Metric = Literal["accuracy", "agreement"]
# Confidences of the candidate thresholds, in log-odds, the safest first.
_CANDIDATE_LOG_ODDS = np.linspace(12, -6, 361)
_CURVE_SHARES = np.linspace(0, 1, 21)
# Of the interval of the share deferred, which use is compared with.
_MONITORING_LEVEL = 0.99


@dataclass(frozen=True)
class CascadeDecisions:
    """Decisions of a student and its teacher on the same texts.

    Attributes:
        student: Label ids that the student decides on, (texts,).
        confidence: The student's calibrated probability of its decision, (texts,).
        teacher: Label ids that the teacher decides on, (texts,).
        references: True label ids, (texts,).
        out_of_scope_id: The out-of-scope label, or None.
    """

    student: np.ndarray
    confidence: np.ndarray
    teacher: np.ndarray
    references: np.ndarray
    out_of_scope_id: int | None = None

    def harmed(self, metric: Metric) -> np.ndarray:
        """Return where an answer of the student costs the metric, (texts,).

        `accuracy`: the student is wrong and the teacher right; `agreement`: they differ.
        """
        if metric == "agreement":
            return self.student != self.teacher
        return (self.student != self.references) & (self.teacher == self.references)

    def groups(self) -> dict[str, np.ndarray]:
        """Return masks of the texts in scope and out of scope; of all texts without the label."""
        if self.out_of_scope_id is None:
            return {"all": np.ones(len(self.student), dtype=bool)}
        outside = self.references == self.out_of_scope_id
        return {"in_scope": ~outside, "out_of_scope": outside}


@dataclass(frozen=True)
class CascadeRule:
    """When a student defers to its teacher, and what that promises.

    Attributes:
        threshold: Texts with a lower confidence are deferred; above 1, all are.
        metric: What the promise is about.
        max_drop: The largest drop against the teacher.
        confidence: Probability, over validation sets, that the promise holds.
        promised_for: The groups of texts that the promise covers: `all`, or `in_scope` and
            `out_of_scope`.
        untestable: For each group with too few validation texts, `texts` and `needed`.
        texts: Validation texts.
        deferred: Share of them that is deferred.
        deferred_interval: Its 99 % interval (Clopper-Pearson).
    """

    threshold: float
    metric: Metric
    max_drop: float
    confidence: float
    promised_for: tuple[str, ...]
    untestable: Mapping[str, Mapping[str, int]]
    texts: int
    deferred: float
    deferred_interval: tuple[float, float]


def choose_rule(
    decisions: CascadeDecisions, metric: Metric, max_drop: float, confidence: float
) -> CascadeRule:
    """Choose the rule that defers the fewest texts and keeps the promise.

    Args:
        decisions: On validation texts.
        metric: What the promise is about.
        max_drop: The largest drop, above 0 and below 1.
        confidence: Probability that the promise holds, above 0 and below 1.
    """
    groups, error = decisions.groups(), 1 - confidence
    shared_error = error / len(groups)
    needed = texts_needed(max_drop, shared_error)
    untestable = {
        name: {"texts": int(mask.sum()), "needed": needed}
        for name, mask in groups.items()
        if mask.sum() < needed
    }
    tested = {name: mask for name, mask in groups.items() if name not in untestable}
    threshold = math.inf
    if tested:
        harmed = decisions.harmed(metric)
        for candidate in 1 / (1 + np.exp(-_CANDIDATE_LOG_ODDS)):
            harmed_and_kept = harmed & (decisions.confidence >= candidate)
            p_values = [
                binom.cdf(int((harmed_and_kept & mask).sum()), int(mask.sum()), max_drop)
                for mask in tested.values()
            ]
            if max(p_values) > error / len(tested):
                break
            threshold = float(candidate)
    deferred = int((decisions.confidence < threshold).sum())
    interval = binomtest(deferred, len(decisions.student)).proportion_ci(_MONITORING_LEVEL)
    return CascadeRule(
        min(threshold, 2.0),
        metric,
        max_drop,
        confidence,
        tuple(tested),
        untestable,
        len(decisions.student),
        deferred / len(decisions.student),
        (float(interval.low), float(interval.high)),
    )


def texts_needed(max_drop: float, error: float) -> int:
    """Count the texts that could show a share of at most `max_drop`, if none is harmed.

    Args:
        max_drop: The share.
        error: Probability of a false promise.
    """
    return math.ceil(math.log(error) / math.log1p(-max_drop))


def measure_cascade(
    decisions: CascadeDecisions, threshold: float, student_ms: float, teacher_ms: float
) -> dict[str, Any]:
    """Measure a cascade on texts.

    Args:
        decisions: On these texts.
        threshold: Texts with a lower confidence are deferred.
        student_ms: Milliseconds of the student for a text.
        teacher_ms: Milliseconds of the teacher for a text.

    Returns:
        `deferred` (share), `accuracy`, `agreement` with the teacher, `ms` for a text, and for each
        group `drop` (the teacher's accuracy less the cascade's) and `harmed` (share of its texts).
    """
    is_deferred = decisions.confidence < threshold
    answers = np.where(is_deferred, decisions.teacher, decisions.student)
    share = float(is_deferred.mean())
    right, teacher_right = (
        answers == decisions.references,
        decisions.teacher == decisions.references,
    )
    harmed = decisions.harmed("accuracy") & ~is_deferred
    return {
        "deferred": share,
        "accuracy": float(right.mean()),
        "agreement": float((answers == decisions.teacher).mean()),
        "ms": student_ms + share * teacher_ms,
        "groups": {
            name: {
                "texts": int(mask.sum()),
                "deferred": float(is_deferred[mask].mean()),
                "drop": float(teacher_right[mask].mean() - right[mask].mean()),
                "disagreement": float((answers[mask] != decisions.teacher[mask]).mean()),
                "harmed": float(harmed[mask].mean()),
            }
            for name, mask in decisions.groups().items()
            if mask.any()
        },
    }


def cascade_curve(
    decisions: CascadeDecisions, student_ms: float, teacher_ms: float
) -> list[dict[str, Any]]:
    """Measure the cascade for deferred shares from 0 to 1; see `measure_cascade`."""
    ordered = np.sort(decisions.confidence)
    points = []
    for share in _CURVE_SHARES:
        count = round(share * len(ordered))
        threshold = float(ordered[count]) if count < len(ordered) else math.inf
        point = measure_cascade(decisions, threshold, student_ms, teacher_ms)
        del point["groups"]
        points.append(point)
    return points


def rule_to_json(rule: CascadeRule) -> dict[str, Any]:
    """Return the content of `cascade.json`."""
    return asdict(rule)


def describe_rule(rule: CascadeRule) -> list[str]:
    """Describe a rule in sentences: what it does, what it promises, and what it can't."""
    names = {"all": "", "in_scope": " in scope", "out_of_scope": " out of scope"}
    sentences = []
    if rule.promised_for:
        what = "accuracy" if rule.metric == "accuracy" else "agreement with the teacher"
        where = " and".join(names[group] for group in rule.promised_for)
        low, high = rule.deferred_interval
        sentences.append(
            f"Below a confidence of {rule.threshold:.4g}, {rule.deferred:.1%} of the texts are "
            f"deferred ({low:.1%} to {high:.1%}). Promise: {what}{where} at most "
            f"{rule.max_drop:g} below the teacher's, with confidence {rule.confidence:g}, if texts "
            "are like those of validation."
        )
    for group, counts in rule.untestable.items():
        sentences.append(
            f"No promise{names[group]}: validation has {counts['texts']:,} such texts, and "
            f"{counts['needed']:,} are needed."
        )
    return sentences
