"""What a sweep has found: as JSON, and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdcli.evaluation.output.evaluation_json import TEACHER, is_fraction
from kdcli.report import svg_plots
from kdcli.sweep.optuna_study import BEST_RECIPE_FILE, PLOT_FILE
from kdcli.sweep.pareto import TimedModel
from kdcli.sweep.search_space import space_to_json
from kdcli.sweep.trials import Trial
from kdcli.sweep.worker import SweepConfig
from kdcli.tasks import Task


@dataclass(frozen=True)
class SweepResult:
    """A sweep, as far as it got.

    Attributes:
        config: What was to be done.
        trials: All that were begun.
        timed_models: The models that were timed, by name.
        frontier: The students among them that none beats.
        chosen: One of these; None where none holds the target.
        target: The validation accuracy to hold, where there is one.
        task: What is learnt; what goes by accuracy is its headline.
    """

    config: SweepConfig
    trials: Sequence[Trial]
    timed_models: Mapping[str, TimedModel]
    frontier: Sequence[TimedModel]
    chosen: TimedModel | None
    target: float | None
    task: Task

    def trial_of(self, student: TimedModel) -> Trial:
        """The trial that made a student."""
        return next(trial for trial in self.trials if trial.name == student.name)

    def to_json(self) -> dict[str, Any]:
        """What `sweep.json` holds, which docs/guides/sweep.md describes."""
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
        """The frontier, and every other finished trial whose kind of student was timed; SVG."""
        points, best = self.timed_models, [point.name for point in self.frontier]
        share = is_fraction(self.task.primary_metric)
        scale, title = 100 if share else 1, f"Validation {self.task.primary_metric_title}"
        alike = {trial.shape: points[trial.name] for trial in self.trials if trial.name in points}
        others = [
            (alike[trial.shape].latency_ms, scale * trial.accuracy)
            for trial in self.trials
            if trial.accuracy is not None and trial.name not in best and trial.shape in alike
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
        return svg_plots.pareto_frontier_svg(alt, f"{title} (%)" if share else title, shown, others)
