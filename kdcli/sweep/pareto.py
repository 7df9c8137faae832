"""The frontier of accuracy against latency and size, and the student to choose on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import UsageError
from kdcli.evaluation.ci import quality_gates
from kdcli.evaluation.efficiency import model_costs
from kdcli.evaluation.output.evaluation_json import TEACHER
from kdcli.evaluation.predict import inference
from kdcli.pipeline.run_folder import RunFolder
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.sweep.optuna_study import RESULT_FILE
from kdcli.sweep.trials import Trial, drop_dominated
from kdcli.tasks import TASKS
from kdcli.training import teacher_logits
from kdcli.training.teacher_logits import TEACHER_LOGITS

_VALIDATION = "validation"
# The same model's median differs by so much from one time to another.
_LATENCY_TOLERANCE = 1.05


@dataclass(frozen=True)
class TimedModel:
    """A model that was timed: what it gets right on validation, and what it takes."""

    name: str
    accuracy: float
    latency_ms: float
    megabytes: float
    parameters: int


def time_models(
    recipe: Recipe,
    run: RunFolder,
    trials: Sequence[Trial],
    dataset_splits: DatasetSplits,
    reporter: Reporter,
) -> dict[str, TimedModel]:
    """The teacher and the kept trials, by name, timed side by side on validation texts.

    Figures that were taken of the same models before are used again, so that a sweep that is done
    chooses the same student each time.
    """
    accuracies = {trial.name: trial.accuracy or 0.0 for trial in trials}
    if known := _load_earlier_timings(run, accuracies):
        return known
    reporter.start("measure", f"time {len(trials)} students and the teacher")
    places = {TEACHER: run.path / "teacher"}
    places |= {trial.name: run.path / trial.folder / "student" for trial in trials}
    field = inference.load_model_group(
        places,
        dataset_splits,
        [_VALIDATION],
        recipe.data.max_length,
        reporter,
        truncate=recipe.data.truncate,
    )
    accuracies[TEACHER] = _teacher_validation_score(run, field, dataset_splits)
    texts = inference.sample_text_tuples(
        dataset_splits.splits[_VALIDATION], recipe.evaluate.latency_texts
    )
    costs = model_costs.measure_model_costs(field.models, texts, dict.fromkeys(places))
    return {
        name: TimedModel(
            name,
            accuracies[name],
            costs[name]["latency_ms"]["p50"],
            costs[name]["megabytes"],
            costs[name]["parameters"],
        )
        for name in places
    }


def _load_earlier_timings(
    run: RunFolder, accuracies: Mapping[str, float]
) -> dict[str, TimedModel] | None:
    file = run.path / RESULT_FILE
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["timed"] if file.is_file() else []
        points = {row["name"]: TimedModel(**row) for row in before}
    except (ValueError, KeyError, TypeError):
        return None  # damaged: it is written anew
    same = {name: p.accuracy for name, p in points.items() if name != TEACHER} == accuracies
    return points if same else None


def _teacher_validation_score(
    run: RunFolder, field: inference.ModelGroup, dataset_splits: DatasetSplits
) -> float:
    logits = teacher_logits.load_teacher_logits(run.path / "teacher-outputs")[
        _VALIDATION
    ].with_format("numpy")
    it = field.models[TEACHER]
    order = [it.labels.index(label) for label in field.labels]
    said = field.task.predict(logits[TEACHER_LOGITS][:][:, order])
    return field.task.score(said, field.reference_labels(dataset_splits.splits[_VALIDATION]))


def pareto_frontier(timed_models: Mapping[str, TimedModel]) -> list[TimedModel]:
    """The students that none is as accurate, as fast and as small as; the most accurate first.

    Where medians differ by no more than they do from one time to another, neither is the faster.
    """
    students = [model for name, model in timed_models.items() if name != TEACHER]
    ranked = sorted(students, key=lambda p: (-p.accuracy, p.megabytes, p.latency_ms))
    return drop_dominated(
        ranked,
        lambda model, other: (
            model.megabytes <= other.megabytes
            and model.latency_ms <= other.latency_ms * _LATENCY_TOLERANCE
        ),
    )


def choose_student(candidates: Sequence[TimedModel], target: float | None) -> TimedModel | None:
    """The most accurate student; with a target the smallest and fastest of those that hold it.

    Where one is smaller and another faster, the product of megabytes and milliseconds decides.

    Returns:
        None where there is none.
    """
    holding = [p for p in candidates if target is None or p.accuracy >= target]
    best = max(holding, key=lambda p: p.accuracy, default=None)
    if target is None or best is None:
        return best
    return min(holding, key=lambda p: (p.megabytes * p.latency_ms, -p.accuracy))


def parse_target(flag_value: str | None) -> quality_gates.QualityGate | None:
    """From `accuracy=0.94`, or another task's headline.

    Raises:
        UsageError: It isn't of that form.
    """
    if flag_value is None:
        return None
    gate = quality_gates.parse_quality_gate("--target", flag_value)
    known = [task.primary_metric for task in TASKS.values()]
    if gate.metric not in known or gate.split not in (None, _VALIDATION) or gate.interval_end:
        raise UsageError(
            f"--target {flag_value}: trials are held to their accuracy on validation alone.",
            "Such as accuracy=0.94; micro_f1 where a text has several labels, spearman of scores.",
        )
    return gate
