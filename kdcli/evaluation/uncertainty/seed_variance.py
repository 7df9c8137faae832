"""Mean and standard deviation of metrics over several seeds."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from kdcli.evaluation.metrics.metric_catalog import is_fraction
from kdcli.tasks import TASKS

# Metrics that the table shows, as far as the models have them.
TABLE_METRICS = (
    *dict.fromkeys(task.primary_metric for task in TASKS.values()),
    "macro_f1",
    "in_scope_accuracy",
    "out_of_scope_recall",
    "agreement",
    "fidelity_pearson",
)


def aggregate_seeds(evaluations_by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Compute mean and standard deviation of every metric over the seeds.

    Args:
        evaluations_by_seed: The contents of `evaluation.json` of two or more seeds.

    Returns:
        `seeds`, and `models`: by model, split and metric its `mean`, `std` (n - 1) and `values` in
        the order of the seeds. The teacher, which is the same for all seeds, is left out.
    """
    models: dict[str, dict[str, Any]] = {}
    for evaluation in evaluations_by_seed.values():
        for model in evaluation["models"]:
            if model["name"] != "teacher":
                for split, metrics in model["splits"].items():
                    values = models.setdefault(model["name"], {}).setdefault(split, {})
                    for name, value in metrics.items():
                        if isinstance(value, int | float):
                            values.setdefault(name, []).append(value)
    return {
        "seeds": list(evaluations_by_seed),
        "models": {
            name: {
                split: {
                    metric: {"mean": mean(values), "std": stdev(values), "values": values}
                    for metric, values in metrics.items()
                    if len(values) == len(evaluations_by_seed)
                }
                for split, metrics in splits.items()
            }
            for name, splits in models.items()
        },
    }


def seed_table_rows(seed_summary: Mapping[str, Any]) -> list[list[str]]:
    """Return table rows: a metric, then its mean and standard deviation for each model."""
    models = list(seed_summary["models"].values())
    rows = []
    for split, metrics in models[0].items():
        for name in TABLE_METRICS:
            if name in metrics:
                cells = [model[split].get(name) for model in models]
                title = f"{split} {name.replace('_', ' ')}"
                rows.append([title, *(_format_mean_and_std(name, cell) for cell in cells)])
    return rows


def _format_mean_and_std(metric: str, summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return ""
    if is_fraction(metric):
        return f"{100 * summary['mean']:.2f} ± {100 * summary['std']:.2f} %"
    return f"{summary['mean']:.4f} ± {summary['std']:.4f}"
