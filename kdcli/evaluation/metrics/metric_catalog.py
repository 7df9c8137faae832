"""Names of all metrics and costs, with their direction and format."""

from collections.abc import Mapping

from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

_MULTILABEL_METRICS = {"micro_f1": True, "macro_f1": True, "weighted_f1": True, "samples_f1": True,
              "subset_accuracy": True, "hamming_loss": False}  # fmt: skip
# By task, all metrics of a split; True if higher values are better.
HIGHER_IS_BETTER_BY_TASK: Mapping[str, Mapping[str, bool]] = {
    SINGLE_LABEL.name: {
        "accuracy": True,
        "balanced_accuracy": True,
        "macro_f1": True,
        "micro_f1": True,
        "weighted_f1": True,
        "top_3_accuracy": True,
        "top_5_accuracy": True,
        "log_loss": False,
        "brier": False,
        "ece": False,
        "log_loss_calibrated": False,
        "brier_calibrated": False,
        "ece_calibrated": False,
        "in_scope_ece": False,
        "in_scope_ece_calibrated": False,
        "in_scope_accuracy": True,
        "in_scope_refused": False,
        "out_of_scope_recall": True,
        "out_of_scope_auroc": True,
        "accuracy_at_threshold": True,
        "in_scope_accuracy_at_threshold": True,
        "in_scope_refused_at_threshold": False,
        "out_of_scope_recall_at_threshold": True,
        "agreement": True,
        "agreement_where_it_errs": True,
        "kl": False,
        "negative_flip_rate": False,
        "positive_flip_rate": True,
    },
    MULTI_LABEL.name: {
        **_MULTILABEL_METRICS,
        **{f"{name}_at_threshold": better for name, better in _MULTILABEL_METRICS.items()},
        "micro_average_precision": True,
        "macro_average_precision": True,
        "log_loss": False,
        "log_loss_calibrated": False,
        "agreement": True,
        "kl": False,
        "negative_flip_rate": False,
        "positive_flip_rate": True,
    },
    REGRESSION.name: {
        "spearman": True,
        "pearson": True,
        "mae": False,
        "rmse": False,
        "fidelity_pearson": True,
        "fidelity_rmse": False,
    },
}
HIGHER_IS_BETTER: Mapping[str, bool] = {
    name: better
    for metrics in HIGHER_IS_BETTER_BY_TASK.values()
    for name, better in metrics.items()
}
COST_METRICS = (
    "parameters",
    "megabytes",
    "peak_megabytes",
    "flops_per_token",
    "latency_ms_p50",
    "latency_ms_p95",
    "texts_per_second",
)
# Metrics that are not shown in percent.
_NON_FRACTION_METRICS = frozenset(
    {"pearson", "spearman", "mae", "rmse", "fidelity_pearson", "fidelity_rmse"}
)


def is_fraction(metric: str) -> bool:
    """Return whether a metric is a fraction, which is shown in percent."""
    return metric not in _NON_FRACTION_METRICS


def is_bounded_by_one(metric: str) -> bool:
    """Return whether a metric is a share, and so never above 1; a cost is none."""
    unbounded = ("log_loss", "brier", "kl")
    return metric in HIGHER_IS_BETTER and is_fraction(metric) and not metric.startswith(unbounded)


def format_metric(metric: str, value: float) -> str:
    """Format a fraction in percent, and other metrics with four decimals."""
    return f"{100 * value:.2f} %" if is_fraction(metric) else f"{value:.4f}"


def format_difference(metric: str, value: float) -> str:
    """Format a difference with its sign, that of fractions in percentage points."""
    return f"{100 * value:+.2f}" if is_fraction(metric) else f"{value:+.4f}"
