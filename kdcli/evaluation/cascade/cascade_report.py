"""Cascades of the models of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.errors import UsageError
from kdcli.evaluation.cascade.deferral_rule import (
    CascadeDecisions,
    CascadeRule,
    Metric,
    cascade_curve,
    choose_rule,
    describe_rule,
    measure_cascade,
    rule_to_json,
)
from kdcli.evaluation.compare import ModelComparison
from kdcli.evaluation.predict.calibrated_predictions import VALIDATION
from kdcli.evaluation.predict.predictions import Predictions
from kdcli.tasks import SINGLE_LABEL


@dataclass(frozen=True)
class CascadeReport:
    """A student with its teacher: the rule, and what it gives.

    Attributes:
        student: Name of the student.
        teacher: Name of the teacher.
        rule: Chosen on validation.
        splits: The measurements by split, see `measure_cascade`.
        curve: The same on validation and test for deferred shares from 0 to 1, by split.
    """

    student: str
    teacher: str
    rule: CascadeRule
    splits: Mapping[str, Mapping[str, Any]]
    curve: Mapping[str, Sequence[Mapping[str, Any]]]

    def to_json(self) -> dict[str, Any]:
        """Return an entry of `cascade` in `evaluation.json`."""
        return {
            "student": self.student,
            "teacher": self.teacher,
            "rule": rule_to_json(self.rule),
            "splits": self.splits,
            "curve": self.curve,
        }


def evaluate_cascades(
    comparison: ModelComparison, metric: Metric, max_drop: float, confidence: float
) -> list[CascadeReport]:
    """Choose and measure a cascade for each model that is not the teacher.

    The teacher is the model that is compared with no other. A model that was exported stands for
    its source. Models decide as they are deployed: by their saved out-of-scope threshold.

    Raises:
        UsageError: There is no validation split, no teacher, or the task has no single label.
    """
    models = {model["name"]: model for model in comparison.evaluation["models"]}
    teachers = [name for name, model in models.items() if model["reference"] is None]
    if comparison.corpus.task is not SINGLE_LABEL:
        raise UsageError(
            f"--cascade needs one label per text; the task is {comparison.corpus.task}."
        )
    if VALIDATION not in comparison.predictions:
        raise UsageError(
            "--cascade chooses on validation, which is not measured.",
            "Add --split validation --split test.",
        )
    if len(teachers) != 1 or len(models) < 2:
        raise UsageError(
            "--cascade needs a teacher and another model.", "Name a run, or two models."
        )
    if not 0 < max_drop < 1 or not 0 < confidence < 1:
        raise UsageError("--max-drop and --confidence of a cascade lie between 0 and 1.")
    (teacher,) = teachers
    exported = {model["exported_from"] for model in models.values() if "exported_from" in model}
    students = [name for name in models if name != teacher and name not in exported]
    students = [name for name in students if models[name].get("exported_from") != teacher]
    reports = []
    for student in students:
        decisions = {
            split: decide(comparison, models, student, teacher, split)
            for split in comparison.predictions
        }
        rule = choose_rule(decisions[VALIDATION], metric, max_drop, confidence)
        costs = [models[name].get("latency_ms", {}).get("p50", 0.0) for name in (student, teacher)]
        report = CascadeReport(
            student,
            teacher,
            rule,
            {split: measure_cascade(d, rule.threshold, *costs) for split, d in decisions.items()},
            {split: cascade_curve(d, *costs) for split, d in decisions.items()},
        )
        reports.append(report)
    return reports


def describe_cascades(reports: Sequence[CascadeReport]) -> list[str]:
    """Describe cascades in sentences, for the terminal."""
    sentences = []
    for report in reports:
        sentences.append(f"Cascade of {report.student} and {report.teacher}:")
        sentences += describe_rule(report.rule)
        for split, measured in report.splits.items():
            drops = ", ".join(
                f"{group.replace('_', ' ')} {100 * values['drop']:+.2f}"
                for group, values in measured["groups"].items()
            )
            sentences.append(
                f"{split}: accuracy {measured['accuracy']:.2%}, agreement "
                f"{measured['agreement']:.2%}, {measured['deferred']:.1%} deferred, "
                f"{measured['ms']:.1f} ms; points lost against the teacher: {drops}."
            )
    return sentences


def decide(
    comparison: ModelComparison,
    models: Mapping[str, Mapping[str, Any]],
    student: str,
    teacher: str,
    split: str,
) -> CascadeDecisions:
    """Return the decisions of a student and its teacher on a split, as they are deployed.

    Args:
        comparison: The evaluation.
        models: Its models' entries in `evaluation.json`, by name.
        student: Name of the student.
        teacher: Name of the teacher.
        split: The split.
    """
    labels, corpus = [*comparison.labels], comparison.corpus
    label = comparison.evaluation["out_of_scope"]
    out_of_scope_id = None if label is None else labels.index(label)
    ids = [labels.index(name) if name in labels else -1 for name in corpus.label_names]
    references = corpus.ground_truth_labels(corpus.splits[split], ids, len(labels))
    by_model = comparison.predictions[split]
    is_saved = {name: _has_saved_settings(models, name) for name in (student, teacher)}
    student_ids = _decided_ids(by_model[student], out_of_scope_id, is_saved[student])
    calibration = by_model[student].calibration
    temperature = calibration.temperature if calibration and is_saved[student] else 1.0
    probabilities = by_model[student].probabilities_at(temperature)
    return CascadeDecisions(
        student_ids,
        np.take_along_axis(probabilities, student_ids[:, None], axis=1)[:, 0],
        _decided_ids(by_model[teacher], out_of_scope_id, is_saved[teacher]),
        references,
        out_of_scope_id,
    )


def _has_saved_settings(models: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    """Return whether a model's temperature and threshold are saved with it, or with its source."""
    source = models[models[name].get("exported_from", name)]
    return (source["settings"] or {}).get("from") == "model"


def _decided_ids(
    predictions: Predictions, out_of_scope_id: int | None, is_saved: bool
) -> np.ndarray:
    point = predictions.operating_point
    if point is None or out_of_scope_id is None or not is_saved:
        return predictions.predicted
    return point.predict_with_refusal(predictions.logits.astype(np.float64), out_of_scope_id)
