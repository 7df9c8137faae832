"""The result of a sweep, as JSON and as a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import is_fraction
from kdcli.evaluation.output.evaluation_schema import TEACHER
from kdcli.report import svg_plots
from kdcli.sweep.optuna_storage import BEST_RECIPE_FILE, PLOT_FILE
from kdcli.sweep.pareto import TimedModel
from kdcli.sweep.search_space import space_to_json
from kdcli.sweep.trials import Trial
from kdcli.sweep.worker import SweepContext
from kdcli.tasks import Task


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    "Accuracy" stands for the task's primary metric.

    Attributes:
        config: The sweep's configuration.
        trials: All started trials.
        timed_models: The timed models, by name.
        frontier: The students on the Pareto front.
        chosen: The chosen one of these; None if none reaches the target.
        target: The target validation accuracy, if any.
        task: The task.
    """

    config: SweepContext
    trials: Sequence[Trial]
    timed_models: Mapping[str, TimedModel]
    frontier: Sequence[TimedModel]
    chosen: TimedModel | None
    target: float | None
    task: Task

    def trial_of(self, student: TimedModel) -> Trial:
        """Find the trial that trained a student."""
        name = student.exported_from or student.name
        return next(trial for trial in self.trials if trial.name == name)

    def to_json(self) -> dict[str, Any]:
        """Build the content of `sweep.json`; docs/guides/sweep.md describes it."""
        folder = self.config.folder
        return {
            "folder": str(folder),
            "space": space_to_json(self.config.space),
            "task": self.task.name,
            "target": self.target,
            "chosen": self._student_row(self.chosen) if self.chosen else None,
            "recipe": str(folder / BEST_RECIPE_FILE) if self.chosen else None,
            "picture": str(folder / PLOT_FILE),
            "teacher": asdict(self.timed_models[TEACHER]),
            "frontier": [self._student_row(point) for point in self.frontier],
            "timed": [asdict(point) for point in self.timed_models.values()],
            "trials": [asdict(trial) for trial in self.trials],
        }

    def _student_row(self, student: TimedModel) -> dict[str, Any]:
        trial = self.trial_of(student)
        run = str(self.config.folder / trial.folder)
        return {**asdict(student), "run": run, "settings": dict(trial.settings)}

    def plot_svg(self) -> str:
        """Plot the Pareto front, and the other finished trials whose student size was timed."""
        points, frontier_names = self.timed_models, [point.name for point in self.frontier]
        as_percent = is_fraction(self.task.primary_metric)
        scale, title = 100 if as_percent else 1, f"Validation {self.task.primary_metric_title}"
        timed_by_size = {
            trial.shape: points[trial.name] for trial in self.trials if trial.name in points
        }
        others = [
            (timed_by_size[trial.shape].latency_ms, scale * trial.accuracy)
            for trial in self.trials
            if trial.accuracy is not None
            and trial.name not in frontier_names
            and trial.shape in timed_by_size
        ]
        shown = [
            (
                p.name,
                svg_plots.ModelPoint(
                    int(p.name != TEACHER), p.latency_ms, scale * p.accuracy, p.megabytes
                ),
            )
            for p in (points[TEACHER], *self.frontier)
        ]
        alt = f"{self.config.recipe.name}: {title.lower()}, latency and size of students"
        return svg_plots.pareto_frontier_svg(
            alt, f"{title} (%)" if as_percent else title, shown, others
        )
