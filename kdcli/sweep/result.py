"""What a sweep has found: as JSON, and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdcli.evaluation.document import TEACHER, is_share
from kdcli.report import plots
from kdcli.sweep.frontier import Point
from kdcli.sweep.space import described
from kdcli.sweep.study import BEST, PICTURE
from kdcli.sweep.trials import Trial
from kdcli.sweep.work import Order
from kdcli.tasks import Task


@dataclass(frozen=True)
class Result:
    """A sweep, as far as it got.

    Attributes:
        order: What was to be done.
        trials: All that were begun.
        points: The models that were timed, by name.
        frontier: The students among them that none beats.
        choice: One of these; None where none holds the target.
        target: The validation accuracy to hold, where there is one.
        task: What is learnt; what goes by accuracy is its headline.
    """

    order: Order
    trials: Sequence[Trial]
    points: Mapping[str, Point]
    frontier: Sequence[Point]
    choice: Point | None
    target: float | None
    task: Task

    def trial(self, point: Point) -> Trial:
        """The trial that made a student."""
        return next(trial for trial in self.trials if trial.name == point.name)

    def document(self) -> dict[str, Any]:
        """What `sweep.json` holds, which docs/guides/sweep.md describes."""
        folder = self.order.folder
        return {
            "folder": str(folder),
            "space": described(self.order.space),
            "task": self.task.name,
            "target": self.target,
            "chosen": self._row(self.choice) if self.choice else None,
            "recipe": str(folder / BEST) if self.choice else None,
            "picture": str(folder / PICTURE),
            "teacher": asdict(self.points[TEACHER]),
            "frontier": [self._row(point) for point in self.frontier],
            "timed": [asdict(point) for point in self.points.values()],
            "trials": [asdict(trial) for trial in self.trials],
        }

    def _row(self, point: Point) -> dict[str, Any]:
        trial = self.trial(point)
        run = str(self.order.folder / trial.folder)
        return {**asdict(point), "run": run, "settings": dict(trial.settings)}

    def picture(self) -> str:
        """The frontier, and every other finished trial whose kind of student was timed; SVG."""
        points, best = self.points, [point.name for point in self.frontier]
        share = is_share(self.task.headline)
        scale, title = 100 if share else 1, f"Validation {self.task.title}"
        alike = {trial.shape: points[trial.name] for trial in self.trials if trial.name in points}
        others = [
            (alike[trial.shape].latency_ms, scale * trial.accuracy)
            for trial in self.trials
            if trial.accuracy is not None and trial.name not in best and trial.shape in alike
        ]
        shown = [
            (
                p.name,
                plots.Dot(int(p.name != TEACHER), p.latency_ms, scale * p.accuracy, p.megabytes),
            )
            for p in (points[TEACHER], *self.frontier)
        ]
        alt = f"{self.order.recipe.name}: {title.lower()}, latency and size of students"
        return plots.frontier(alt, f"{title} (%)" if share else title, shown, others)
