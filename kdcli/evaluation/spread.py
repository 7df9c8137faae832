"""What the seed decides: the same figures over several seeds."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from kdcli.evaluation.document import is_share
from kdcli.tasks import TASKS

# What of it a model has, a table shows.
SHOWN = (
    *dict.fromkeys(task.headline for task in TASKS.values()),
    "macro_f1",
    "in_scope_accuracy",
    "out_of_scope_recall",
    "agreement",
    "fidelity_pearson",
)


def over_seeds(evaluations: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of every figure of what was trained with each seed.

    Args:
        evaluations: Two or more, as `evaluation.json` holds them, by seed.

    Returns:
        `seeds`, and `models`: by model and split each figure's `mean`, `std` (with n - 1) and
        `values`, in the order of the seeds. The teacher is the same for all and isn't there.
    """
    models: dict[str, dict[str, Any]] = {}
    for evaluation in evaluations.values():
        for model in evaluation["models"]:
            if model["name"] != "teacher":
                for split, figures in model["splits"].items():
                    found = models.setdefault(model["name"], {}).setdefault(split, {})
                    for name, value in figures.items():
                        if isinstance(value, int | float):
                            found.setdefault(name, []).append(value)
    return {
        "seeds": list(evaluations),
        "models": {
            name: {
                split: {
                    figure: {"mean": mean(values), "std": stdev(values), "values": values}
                    for figure, values in figures.items()
                    if len(values) == len(evaluations)
                }
                for split, figures in splits.items()
            }
            for name, splits in models.items()
        },
    }


def rows(spread: Mapping[str, Any]) -> list[list[str]]:
    """The table: a figure in a row, then its mean and standard deviation for each model."""
    models = list(spread["models"].values())
    found = []
    for split, figures in models[0].items():
        for name in SHOWN:
            if name in figures:
                cells = [model[split].get(name) for model in models]
                title = f"{split} {name.replace('_', ' ')}"
                found.append([title, *(_cell(name, cell) for cell in cells)])
    return found


def _cell(name: str, figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ""
    if is_share(name):
        return f"{100 * figure['mean']:.2f} ± {100 * figure['std']:.2f} %"
    return f"{figure['mean']:.4f} ± {figure['std']:.4f}"
