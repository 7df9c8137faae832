"""What the seed decides: the same figures over several seeds."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import is_fraction
from kdcli.tasks import TASKS

# What of it a model has, a table shows.
TABLE_METRICS = (
    *dict.fromkeys(task.primary_metric for task in TASKS.values()),
    "macro_f1",
    "in_scope_accuracy",
    "out_of_scope_recall",
    "agreement",
    "fidelity_pearson",
)


def aggregate_seeds(evaluations_by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of every figure of what was trained with each seed.

    Args:
        evaluations_by_seed: Two or more, as `evaluation.json` holds them, by seed.

    Returns:
        `seeds`, and `models`: by model and split each figure's `mean`, `std` (with n - 1) and
        `values`, in the order of the seeds. The teacher is the same for all and isn't there.
    """
    models: dict[str, dict[str, Any]] = {}
    for evaluation in evaluations_by_seed.values():
        for model in evaluation["models"]:
            if model["name"] != "teacher":
                for split, figures in model["splits"].items():
                    found = models.setdefault(model["name"], {}).setdefault(split, {})
                    for name, value in figures.items():
                        if isinstance(value, int | float):
                            found.setdefault(name, []).append(value)
    return {
        "seeds": list(evaluations_by_seed),
        "models": {
            name: {
                split: {
                    figure: {"mean": mean(values), "std": stdev(values), "values": values}
                    for figure, values in figures.items()
                    if len(values) == len(evaluations_by_seed)
                }
                for split, figures in splits.items()
            }
            for name, splits in models.items()
        },
    }


def seed_table_rows(seed_summary: Mapping[str, Any]) -> list[list[str]]:
    """The table: a figure in a row, then its mean and standard deviation for each model."""
    models = list(seed_summary["models"].values())
    found = []
    for split, figures in models[0].items():
        for name in TABLE_METRICS:
            if name in figures:
                cells = [model[split].get(name) for model in models]
                title = f"{split} {name.replace('_', ' ')}"
                found.append([title, *(_format_mean_and_std(name, cell) for cell in cells)])
    return found


def _format_mean_and_std(metric: str, summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return ""
    if is_fraction(metric):
        return f"{100 * summary['mean']:.2f} ± {100 * summary['std']:.2f} %"
    return f"{summary['mean']:.4f} ± {summary['std']:.4f}"
