"""Evaluate models from Python: the function behind `kd evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.api.model_evaluation import evaluate_models
from kdcli.api.reporting import ProgressCallback, choose_reporter, quiet_libraries
from kdcli.api.runs import Overrides, to_overrides, to_reference
from kdcli.evaluation.compare import ModelComparison
from kdcli.progress import Reporter


@dataclass(frozen=True)
class EvaluationReport:
    """Metrics of several models on the same texts.

    Attributes:
        comparison: The metrics with texts and predictions.
    """

    comparison: ModelComparison

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The evaluation, as `kd evaluate --json` prints it; see docs/guides/figures.md."""
        return self.comparison.evaluation

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by model and split."""
        return {model["name"]: model["splits"] for model in self.evaluation["models"]}


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    data: Any = None,
    config: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    splits: Sequence[str] | None = None,
    against: str | Path | None = None,
    overrides: Overrides = (),
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationReport:
    """Measure models on the same texts: `kd evaluate`.

    Args:
        models: Run folders (which stand for their teacher and student), model folders, Hub ids.
        data: Hub id, path, data frame, `datasets.Dataset` or `DatasetDict`; by default the data
            of the run that a model belongs to.
        config: Configuration of a Hub dataset.
        text: Column of the texts, or two columns of pairs.
        label: Column of the labels.
        splits: Splits to measure on.
        against: Model that the others are compared with; by default the teacher.
        overrides: Further values by dotted key, such as `{"data.task": "multi_label"}`.
        allow_pickle: Allow model weights that are stored as a pickle.
        reporter: Receives progress; by default the logger `kdcli`.
        progress: Called as `progress(stage, done, total, metrics)`, if there is no reporter.

    Raises:
        KdError: A model or the data is missing or unusable.
    """
    keys = {
        "data.dataset": to_reference(data),
        "data.config": config,
        "data.text": text if text is None or isinstance(text, str) else list(text),
        "data.label": label,
        "evaluate.splits": None if splits is None else list(splits),
    }
    given = {key: value for key, value in keys.items() if value is not None}
    references = [models] if isinstance(models, str | Path) else models
    with quiet_libraries():
        comparison = evaluate_models(
            [str(model) for model in references],
            [*to_overrides(given), *to_overrides(overrides)],
            choose_reporter(reporter, progress),
            None if against is None else str(against),
            allow_pickle=allow_pickle,
        )
    return EvaluationReport(comparison)
