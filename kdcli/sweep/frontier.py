"""The frontier of accuracy against latency and size, and the student to choose on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdcli.data.encode import TEACHER_LOGITS
from kdcli.data.source import Corpus
from kdcli.errors import UsageError
from kdcli.evaluation import cost, gates, passes
from kdcli.evaluation.document import TEACHER
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.run import RunFolder
from kdcli.sweep.study import RESULT
from kdcli.sweep.trials import Trial
from kdcli.tasks import TASKS
from kdcli.training import signals

_VALIDATION = "validation"
# The same model's median differs by so much from one time to another.
_NOISE = 1.05


@dataclass(frozen=True)
class Point:
    """A model that was timed: what it gets right on validation, and what it takes."""

    name: str
    accuracy: float
    latency_ms: float
    megabytes: float
    parameters: int


def timed(
    recipe: Recipe, run: RunFolder, kept: Sequence[Trial], corpus: Corpus, reporter: Reporter
) -> dict[str, Point]:
    """The teacher and the kept trials, by name, timed side by side on validation texts.

    Figures that were taken of the same models before are used again, so that a sweep that is done
    chooses the same student each time.
    """
    accuracies = {trial.name: trial.accuracy or 0.0 for trial in kept}
    if known := _known(run, accuracies):
        return known
    reporter.start("measure", f"time {len(kept)} students and the teacher")
    places = {TEACHER: run.path / "teacher"}
    places |= {trial.name: run.path / trial.folder / "student" for trial in kept}
    field = passes.load(
        places,
        corpus,
        [_VALIDATION],
        recipe.data.max_length,
        reporter,
        truncate=recipe.data.truncate,
    )
    accuracies[TEACHER] = _accuracy_of_teacher(run, field, corpus)
    texts = passes.sample(corpus.splits[_VALIDATION], recipe.evaluate.latency_texts)
    costs = cost.costs(field.subjects, texts, dict.fromkeys(places))
    return {
        name: Point(
            name,
            accuracies[name],
            costs[name]["latency_ms"]["p50"],
            costs[name]["megabytes"],
            costs[name]["parameters"],
        )
        for name in places
    }


def _known(run: RunFolder, accuracies: Mapping[str, float]) -> dict[str, Point] | None:
    file = run.path / RESULT
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["timed"] if file.is_file() else []
        points = {row["name"]: Point(**row) for row in before}
    except (ValueError, KeyError, TypeError):
        return None  # damaged: it is written anew
    same = {name: p.accuracy for name, p in points.items() if name != TEACHER} == accuracies
    return points if same else None


def _accuracy_of_teacher(run: RunFolder, field: passes.Field, corpus: Corpus) -> float:
    logits = signals.read(run.path / "teacher-outputs")[_VALIDATION].with_format("numpy")
    it = field.subjects[TEACHER]
    order = [it.labels.index(label) for label in field.labels]
    said = field.task.decide(logits[TEACHER_LOGITS][:][:, order])
    return field.task.score(said, field.references(corpus.splits[_VALIDATION]))


def frontier(points: Mapping[str, Point]) -> list[Point]:
    """The students that none is as accurate, as fast and as small as; the most accurate first.

    Where medians differ by no more than they do from one time to another, neither is the faster.
    """
    students = [point for name, point in points.items() if name != TEACHER]
    ranked = sorted(students, key=lambda p: (-p.accuracy, p.megabytes, p.latency_ms))
    found: list[Point] = []
    for point in ranked:
        if not any(
            better.megabytes <= point.megabytes and better.latency_ms <= point.latency_ms * _NOISE
            for better in found
        ):
            found.append(point)
    return found


def chosen(points: Sequence[Point], target: float | None) -> Point | None:
    """The most accurate student; with a target the smallest and fastest of those that hold it.

    Where one is smaller and another faster, the product of megabytes and milliseconds decides.

    Returns:
        None where there is none.
    """
    holding = [p for p in points if target is None or p.accuracy >= target]
    best = max(holding, key=lambda p: p.accuracy, default=None)
    if target is None or best is None:
        return best
    return min(holding, key=lambda p: (p.megabytes * p.latency_ms, -p.accuracy))


def target_of(text: str | None) -> gates.Gate | None:
    """From `accuracy=0.94`, or another task's headline.

    Raises:
        UsageError: It isn't of that form.
    """
    if text is None:
        return None
    gate = gates.parse("--target", text)
    known = [task.headline for task in TASKS.values()]
    if gate.figure not in known or gate.split not in (None, _VALIDATION) or gate.bound:
        raise UsageError(
            f"--target {text}: trials are held to their accuracy on validation alone.",
            "Such as accuracy=0.94; micro_f1 where a text has several labels, spearman of scores.",
        )
    return gate
