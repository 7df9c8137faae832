"""Main results of a comparison, as a table for 80 columns and as sentences."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import (
    format_difference,
    format_metric,
    is_fraction,
)
from kdcli.evaluation.output.evaluation_schema import (
    BASELINE,
    STUDENT,
    TEACHER,
    flatten_costs,
)
from kdcli.sanitize import count_noun
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

ModelResult = Mapping[str, Any]

# By task, the metrics shown below the primary one.
_METRIC_TITLES = {
    SINGLE_LABEL.name: {
        "macro_f1": "macro F1",
        "in_scope_accuracy": "in-scope accuracy",
        "out_of_scope_recall": "out-of-scope recall",
        "agreement": "agreement",
    },
    MULTI_LABEL.name: {
        "macro_f1": "macro F1",
        "samples_f1": "samples F1",
        "micro_average_precision": "average precision",
        "subset_accuracy": "subset accuracy",
        "agreement": "agreement",
    },
    REGRESSION.name: {
        "pearson": "Pearson",
        "mae": "mean abs. error",
        "rmse": "root mean sq. error",
        "fidelity_pearson": "Pearson, teacher",
    },
}

_BASELINE_TITLES = {
    "tfidf": "TF-IDF and a linear model",
    "frozen_encoder": "the encoder as it was before fine-tuning, and a logistic regression",
}
# Student families of the same kind.
_BASELINE_FAMILIES = {"tfidf": "tfidf", "frozen_encoder": "head"}
_PSEUDO_LABEL_REMARK = (
    "The texts have no labels, so the teacher's predictions are used as labels. The {0} of the "
    "teacher is meaningless; that of the other models is their agreement with the teacher."
)
_COST_FORMATS = {
    "parameters": ("parameters", 1e-6, "{:.2f} M"),
    "megabytes": ("weights", 1, "{:.1f} MB"),
    "latency_ms_p50": ("latency, median", 1, "{:.1f} ms"),
    "latency_ms_p95": ("latency, 95th perc.", 1, "{:.1f} ms"),
    "texts_per_second": ("texts per second", 1, "{:,.0f}"),
}


def comparison_table_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table: a title, then a cell for each model.

    Args:
        evaluation: The content of `evaluation.json`, or its short form.
    """
    models, task = evaluation["models"], TASKS[evaluation["task"]]
    rows = []
    for split, texts in evaluation["examples"].items():
        rows.append([f"{split}, {count_noun(texts, 'text')}", *("" for _ in models)])
        rows += [row for row in _split_rows(split, models, task) if any(row[1:])]
    rows.append(["cost", *("" for _ in models)])
    costs = [flatten_costs(model) for model in models]
    rows += [
        [f"  {title}", *(shape.format(cost[key] * scale) if key in cost else "" for cost in costs)]
        for key, (title, scale, shape) in _COST_FORMATS.items()
    ]
    speedup = ["  speed-up", *map(_format_speedup, models)]
    return [*rows, speedup] if any(speedup[1:]) else rows


def _split_rows(split: str, models: list[ModelResult], task: Task) -> list[list[str]]:
    results, primary = [model["splits"][split] for model in models], task.primary_metric
    without_repeats = [metrics.get("unrepeated", {}) for metrics in results]
    recall = "out_of_scope_recall_at_threshold"
    return [
        [f"  {task.primary_metric_title}", *(_format_with_interval(m, primary) for m in results)],
        ["  difference", *(_format_difference(model, split, primary) for model in models)],
        ["  without repeats", *(_format_if_present(primary, m) for m in without_repeats)],
        *(
            [f"  {title}", *(_format_if_present(metric, m) for m in results)]
            for metric, title in _METRIC_TITLES[task.name].items()
        ),
        ["  calibration error", *map(_format_calibration_error, results)],
        [
            "  with threshold",
            *(_format_with_interval(m, f"{primary}_at_threshold") for m in results),
        ],
        ["    recall", *(_format_if_present(recall, m) for m in results)],
    ]


def comparison_remarks(evaluation: Mapping[str, Any]) -> list[str]:
    """Describe differences and their significance, and the thresholds, one sentence or two each."""
    models, task = evaluation["models"], TASKS[evaluation["task"]]
    remarks = []
    if evaluation["labels_from"] == TEACHER:
        remarks.append(_PSEUDO_LABEL_REMARK.format(task.primary_metric_title))
    for split in evaluation["examples"]:
        remarks += [_describe_difference(m, split, task) for m in models if m["reference"]]
    remarks += [
        f"{split}: {_with_article(name)} gives every text the same label, and has learnt nothing. "
        "Train for longer, with a higher learning rate or more texts; do not use it."
        for name, split in models_with_one_label(evaluation)
    ]
    remarks += _warn_if_baseline_beats_student(models, evaluation["examples"], task)
    for baseline in evaluation.get("baselines", ()):
        remarks.append(_describe_simple_baseline(baseline, task))
        remarks += _warn_if_simple_baseline_is_better(baseline, task)
    calibrated = [model for model in models if "exported_from" not in model]
    for key, describe in _THRESHOLD_DESCRIPTIONS.items():
        remarks += [describe(model) for model in calibrated if _calibration_value(model, key)]
    return remarks


def models_with_one_label(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (model, split) pairs where a model predicts one label for texts of several labels."""
    found = []
    for model, split in product(evaluation["models"], evaluation["examples"]):
        cells = model["splits"][split].get("confusion", ())
        labels, predicted = ({cell[i] for cell in cells} for i in (0, 1))
        if len(labels) > 1 and len(predicted) == 1:
            found.append((model["name"], split))
    return found


def _describe_difference(model: ModelResult, split: str, task: Task) -> str:
    metric, name, other = task.primary_metric, model["name"], model["reference"]
    pair = model["splits"][split]["against"][other]
    difference = pair["differences"][metric]
    value, low, high = (
        format_difference(metric, difference[key]) for key in ("value", "low", "high")
    )
    subject = _with_article(name)
    amount = value.lstrip("+-") + (" points" if is_fraction(metric) else "")
    direction = "higher" if difference["value"] > 0 else "lower"
    comparison = f"{amount} {direction} than" if difference["value"] else "the same as"
    tests = [f"95 % interval {low} to {high}"]
    if "p" in pair:
        tests.append("McNemar p " + ("< 0.001" if pair["p"] < 0.001 else f"= {pair['p']:.2g}"))
    if difference["noise"]:
        # The interval and McNemar's test may disagree, where few texts differ.
        includes_zero = difference["low"] <= 0 <= difference["high"]
        tests.insert(0, "not significant" if includes_zero else "too few texts to tell")
    sentence = (
        f"{split}: the {task.primary_metric_title} of {subject} is {comparison} "
        f"that of {_with_article(other)} ({', '.join(tests)})."
    )
    if "p" not in pair:
        return sentence
    counted = ", where a text is right if all its labels are" if task is MULTI_LABEL else ""
    # Names of models may be paths, which stay as they are.
    subject = f"T{subject[1:]}" if subject.startswith("the ") else subject
    return (
        f"{sentence} {subject} is wrong on {count_noun(pair['broken'], 'text')} that "
        f"{_with_article(other)} gets right, and right on {pair['repaired']:,} that "
        f"{_with_article(other)} gets wrong{counted}."
    )


def _warn_if_baseline_beats_student(
    models: list[ModelResult], splits: Iterable[str], task: Task
) -> list[str]:
    """Warn, for the first such split, if training on the labels alone is significantly better."""
    students = [model for model in models if model["name"] == STUDENT]
    for split, student in product(splits, students):
        gap = _find_difference(student, split, BASELINE, task.primary_metric)
        if gap is not None and gap["value"] < 0 and not gap["noise"]:
            below = format_difference(task.primary_metric, -gap["value"]).lstrip("+")
            return [
                f"{split}: the {task.primary_metric_title} of the student is {below} below that of "
                "the baseline, which was trained on the labels alone: distillation from this "
                "teacher does harm. Fine-tune the teacher for longer, use a better teacher, or "
                "give its losses less weight."
            ]
    return []


def _describe_simple_baseline(baseline: ModelResult, task: Task) -> str:
    metric = task.primary_metric
    scores = []
    for split, metrics in baseline["splits"].items():
        score = f"{split} {format_metric(metric, metrics[metric])}"
        if f"{metric}_at_threshold" in metrics:
            at_threshold = metrics[f"{metric}_at_threshold"]
            score += f" (with a threshold {format_metric(metric, at_threshold)})"
        scores.append(score)
    return (
        f"Baseline without a teacher: {_BASELINE_TITLES[baseline['name']]}, fitted to "
        f"{count_noun(baseline['training_texts'], 'text')} in "
        f"{max(1, round(baseline['seconds']))} s: {', '.join(scores)}."
    )


def _warn_if_simple_baseline_is_better(baseline: ModelResult, task: Task) -> list[str]:
    """Warn, for the first such split and model, if a baseline is significantly better."""
    family = _BASELINE_FAMILIES[baseline["name"]]
    advice = {
        TEACHER: "Fine-tune the teacher for longer, or take a better one"
        + (
            "; the frozen encoder itself can teach (teacher.kind: embeddings)."
            if baseline["name"] == "frozen_encoder"
            else "."
        ),
        STUDENT: f"A model that simple may be all that these texts need: student.family: {family}.",
    }
    for split, other in product(baseline["splits"], advice):
        gap = _find_difference(baseline, split, other, task.primary_metric)
        if gap is None or gap["noise"] or gap["value"] <= 0:
            continue
        above = format_difference(task.primary_metric, gap["value"]).lstrip("+-")
        above += " points" if is_fraction(task.primary_metric) else ""
        return [f"{split}: this baseline is better than the {other}, by {above}. {advice[other]}"]
    return []


def _describe_out_of_scope_threshold(model: ModelResult) -> str:
    point = _calibration_value(model, "operating_point")
    return (
        f"Threshold of {_with_article(model['name'])}: texts are labelled {point['label']} if "
        f"their {point['score']} score is below {point['threshold']:.4g}. The threshold "
        f"{_describe_calibration_source(model)}, to refuse at most "
        f"{100 * point['refuse_at_most']:g} % of the in-scope texts."
    )


def _describe_label_thresholds(model: ModelResult) -> str:
    thresholds = _calibration_value(model, "thresholds").values()
    low, high = min(thresholds), max(thresholds)
    values = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}, depending on the label"
    return (
        f"Threshold of {_with_article(model['name'])}: a label is predicted from a probability of "
        f"{values}. The threshold {_describe_calibration_source(model)}, for the highest F1."
    )


_THRESHOLD_DESCRIPTIONS = {
    "operating_point": _describe_out_of_scope_threshold,
    "thresholds": _describe_label_thresholds,
}


def _describe_calibration_source(model: ModelResult) -> str:
    from_model = model["settings"]["from"] == "model"
    return "comes with the model" if from_model else "was chosen on validation"


def _with_article(model_name: str) -> str:
    return f"the {model_name}" if model_name in (TEACHER, STUDENT, BASELINE) else model_name


def _calibration_value(model: ModelResult, key: str) -> Any:
    return (model["settings"] or {}).get(key)


def _format_if_present(metric: str, metrics: Mapping[str, Any]) -> str:
    return format_metric(metric, metrics[metric]) if metric in metrics else ""


def _format_with_interval(metrics: Mapping[str, Any], metric: str) -> str:
    if metric not in metrics:
        return ""
    if metric not in metrics["intervals"]:
        return format_metric(metric, metrics[metric])
    low, high = metrics["intervals"][metric]
    if not is_fraction(metric):
        return f"{metrics[metric]:.4f} ± {(high - low) / 2:.4f}"
    return f"{100 * metrics[metric]:.2f} ± {50 * (high - low):.2f} %"


def _format_difference(model: ModelResult, split: str, headline: str) -> str:
    gap = _find_difference(model, split, model["reference"], headline)
    if gap is None:
        return ""
    return f"{format_difference(headline, gap['value'])}{', n. s.' if gap['noise'] else ''}"


def _find_difference(model: ModelResult, split: str, other_model: str | None, metric: str) -> Any:
    """Return the difference from another model, or None if the two are not compared."""
    pair = model["splits"][split]["against"].get(other_model, {})
    return pair.get("differences", {}).get(metric)


def _format_calibration_error(metrics: Mapping[str, Any]) -> str:
    if "ece" not in metrics:
        return ""
    before, after = metrics["ece"], metrics.get("ece_calibrated")
    return f"{100 * before:.1f} %" if after is None else f"{100 * before:.1f} → {100 * after:.1f} %"


def _format_speedup(model: ModelResult) -> str:
    ratio = model.get("relative", {}).get("latency_ms_p50")
    return f"{1 / ratio:.2f}" if ratio else ""
