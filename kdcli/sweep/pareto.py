"""The Pareto front of accuracy, latency and size, and the choice of a student on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import UsageError
from kdcli.evaluation.ci import quality_gates
from kdcli.evaluation.efficiency import model_costs
from kdcli.evaluation.output.evaluation_schema import TEACHER
from kdcli.evaluation.predict import model_logits
from kdcli.pipeline.run_folder import RunFolder
from kdcli.progress import Reporter, SilentReporter, StageProgress
from kdcli.recipe.schema import Recipe
from kdcli.sanitize import count_noun
from kdcli.sweep.optuna_storage import RESULT_FILE
from kdcli.sweep.trials import Trial, drop_dominated
from kdcli.tasks import TASKS
from kdcli.training import teacher_logits
from kdcli.training.teacher_logits import TEACHER_LOGITS

_VALIDATION = "validation"
# The median latency of the same model varies by this factor between measurements.
_LATENCY_TOLERANCE = 1.05


@dataclass(frozen=True)
class TimedModel:
    """Validation accuracy, latency and size of a model.

    Attributes:
        name: Its name.
        accuracy: The primary metric on validation.
        latency_ms: Median milliseconds for one text.
        megabytes: Size of its files.
        parameters: Number of parameters.
        exported_from: Name of the trial whose student was exported to this model.
    """

    name: str
    accuracy: float
    latency_ms: float
    megabytes: float
    parameters: int
    exported_from: str | None = None


def time_models(
    recipe: Recipe,
    run: RunFolder,
    trials: Sequence[Trial],
    dataset_splits: DatasetSplits,
    reporter: Reporter,
    *,
    exports: Mapping[str, tuple[str, Path]],
) -> dict[str, TimedModel]:
    """Time the teacher, the kept trials and their exports side by side on validation texts.

    Earlier timings of the same models are reused, so that a finished sweep always chooses the same
    student.

    Args:
        recipe: The recipe that all trials start from.
        run: The sweep's folder.
        trials: The kept trials.
        dataset_splits: The data set.
        reporter: Receives the progress.
        exports: Name and file of each trial's export, by name of the trial.

    Returns:
        The timed models, by name.
    """
    accuracies = {trial.name: trial.accuracy or 0.0 for trial in trials}
    sources = {name: trial for trial, (name, _) in exports.items()}
    if known := _load_earlier_timings(run, accuracies, sources):
        return known
    exported = f", {len(exports)} exported ones" if exports else ""
    reporter.start(
        "measure", f"time {count_noun(len(trials), 'student')}{exported} and the teacher"
    )
    folders = {TEACHER: run.path / "teacher"}
    folders |= {trial.name: run.path / trial.folder / "student" for trial in trials}
    folders |= dict(exports.values())
    group = model_logits.load_models_to_compare(
        folders,
        dataset_splits,
        [_VALIDATION],
        recipe.data.max_length,
        reporter,
        truncate=recipe.data.truncation,
    )
    accuracies[TEACHER] = _teacher_validation_score(run, group, dataset_splits)
    validation = dataset_splits.splits[_VALIDATION]
    for name in sources:
        batch_size, progress = recipe.evaluate.batch_size, StageProgress(SilentReporter(), 1)
        outputs = group.predict(name, validation, batch_size, progress, with_features=False)
        predicted = group.task.predict(outputs.logits)
        accuracies[name] = group.task.score(predicted, group.reference_labels(validation))
    texts = model_logits.sample_text_tuples(
        dataset_splits.splits[_VALIDATION], recipe.evaluate.latency_texts
    )
    costs = model_costs.measure_model_costs(
        group.models, texts, dict.fromkeys(folders), reporter.advance
    )
    return {
        name: TimedModel(
            name,
            accuracies[name],
            costs[name]["latency_ms"]["p50"],
            costs[name]["megabytes"],
            costs[sources.get(name, name)]["parameters"],
            sources.get(name),
        )
        for name in folders
    }


def _load_earlier_timings(
    run: RunFolder, accuracies: Mapping[str, float], sources: Mapping[str, str]
) -> dict[str, TimedModel] | None:
    file = run.path / RESULT_FILE
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["timed"] if file.is_file() else []
        timed_models = {row["name"]: TimedModel(**row) for row in rows}
    except (ValueError, KeyError, TypeError):
        return None  # damaged: the sweep writes it again
    exports = {name: p.exported_from for name, p in timed_models.items() if p.exported_from}
    known = {name: p.accuracy for name, p in timed_models.items() if name not in exports}
    known.pop(TEACHER, None)
    return timed_models if known == accuracies and exports == sources else None


def _teacher_validation_score(
    run: RunFolder, group: model_logits.ComparedModels, dataset_splits: DatasetSplits
) -> float:
    logits = teacher_logits.load_teacher_logits(run.path / "teacher-outputs")[
        _VALIDATION
    ].with_format("numpy")
    teacher_labels = group.models[TEACHER].labels
    order = [teacher_labels.index(label) for label in group.labels]
    predictions = group.task.predict(logits[TEACHER_LOGITS][:][:, order])
    return group.task.score(predictions, group.reference_labels(dataset_splits.splits[_VALIDATION]))


def pareto_frontier(timed_models: Mapping[str, TimedModel]) -> list[TimedModel]:
    """Select the students that no other dominates in accuracy, latency and size.

    Latencies within measurement noise count as equal.

    Returns:
        The students, the most accurate first.
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
    """Choose the most accurate student, or the cheapest one that reaches a target accuracy.

    The cost is the product of megabytes and milliseconds.

    Returns:
        The student; None if none reaches the target.
    """
    reaching = [p for p in candidates if target is None or p.accuracy >= target]
    best = max(reaching, key=lambda p: p.accuracy, default=None)
    if target is None or best is None:
        return best
    return min(reaching, key=lambda p: (p.megabytes * p.latency_ms, -p.accuracy))


def parse_target(flag_value: str | None) -> quality_gates.QualityGate | None:
    """Parse a target such as `accuracy=0.94`.

    Raises:
        UsageError: It isn't a lower bound of a task's primary metric on validation.
    """
    if flag_value is None:
        return None
    gate = quality_gates.parse_quality_gate("--target", flag_value)
    known = [task.primary_metric for task in TASKS.values()]
    if gate.metric not in known or gate.split not in (None, _VALIDATION) or gate.interval_end:
        raise UsageError(
            f"--target {flag_value}: the target must be for the primary metric on validation.",
            "Write accuracy=0.94, for example (multi-label: micro_f1; regression: spearman).",
        )
    return gate
