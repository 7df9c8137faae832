"""Bootstrap confidence intervals of metrics.

The bootstrap draws the texts of a split a thousand times with replacement, and computes the metrics
of each draw. All models share the draws, so that differences of two models come from pairs: texts
that are hard for both models don't widen the interval. Metrics are computed from sums over texts,
so that all draws are one matrix product.
"""

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix

from kdcli.evaluation.calibration.calibration_error import NUM_BINS, confidence_bin_ids
from kdcli.evaluation.metrics.metric_results import MaskedValues

NUM_RESAMPLES = 1000
CONFIDENCE_LEVEL = 0.95
_SEED = 20150
_CHUNK_SIZE = 1 << 18  # draws x texts that are processed at a time: they fit a processor's cache


class BootstrapResamples:
    """Bootstrap draws of a split's texts. The methods return a value for each draw, (resamples,).

    Args:
        num_texts: The number of texts in the split.
        num_resamples: The number of draws.
    """

    def __init__(self, num_texts: int, num_resamples: int = NUM_RESAMPLES) -> None:
        random = np.random.default_rng(_SEED)
        # How often each text is drawn. It is about once, so that a byte is enough.
        self._draw_counts = np.empty((num_resamples, num_texts), dtype=np.uint8)
        for row in self._draw_counts:
            drawn = random.integers(num_texts, size=num_texts, dtype=np.int32)
            row[:] = np.bincount(drawn, minlength=num_texts)

    def masked_means(self, masked_values: Mapping[str, MaskedValues]) -> dict[str, np.ndarray]:
        """Compute means of values over some of the texts."""
        columns = [
            column
            for value, mask in masked_values.values()
            for column in (
                (value, np.ones(len(value))) if mask is None else (np.where(mask, value, 0), mask)
            )
        ]
        sums = self._sum_per_draw(np.stack(columns, axis=1).astype(np.float32))
        return {
            name: _divide_or_nan(sums[:, 2 * i], sums[:, 2 * i + 1])
            for i, name in enumerate(masked_values)
        }

    def single_label_metrics(
        self, predictions: np.ndarray, references: np.ndarray, num_classes: int
    ) -> dict[str, np.ndarray]:
        """Compute balanced accuracy, macro and weighted F1.

        Args:
            predictions: (texts,) class ids.
            references: (texts,) class ids.
            num_classes: The number of classes.
        """
        correct = predictions == references
        true_positives = self._sum_per_draw(_sparse_one_hot(references, num_classes, correct))
        support = self._sum_per_draw(_sparse_one_hot(references, num_classes))
        predicted = self._sum_per_draw(_sparse_one_hot(predictions, num_classes))
        recall = np.nanmean(_divide_or_nan(true_positives, support), axis=1)
        return {
            "balanced_accuracy": recall,
            **_macro_and_weighted_f1(true_positives, support, predicted),
        }

    def multilabel_f1(
        self, predictions: np.ndarray, references: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Compute micro, macro and weighted F1 of multi-label predictions.

        Args:
            predictions: bool, (texts, labels).
            references: bool, (texts, labels).
        """
        true_positives, support, predicted = (
            self._sum_per_draw(csr_matrix(values, dtype=np.float32))
            for values in (predictions & references, references, predictions)
        )
        micro = _divide_or_nan(2 * true_positives.sum(axis=1), (support + predicted).sum(axis=1))
        return {"micro_f1": micro, **_macro_and_weighted_f1(true_positives, support, predicted)}

    def regression_metrics(
        self, predictions: np.ndarray, references: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Compute Spearman's and Pearson's correlation, mean absolute and root mean squared error.

        Args:
            predictions: (texts,).
            references: (texts,).
        """
        x, y = (values.astype(np.float64) for values in (predictions, references))
        pearson, spearman = (np.empty(len(self._draw_counts)) for _ in range(2))
        for rows in self._draw_slices():
            counts = self._draw_counts[rows].astype(np.float64)
            pearson[rows] = _pearson_per_draw(counts, x[None], y[None])
            spearman[rows] = _pearson_per_draw(
                counts, _midranks_per_draw(counts, x), _midranks_per_draw(counts, y)
            )
        errors = self._sum_per_draw(np.stack([np.abs(x - y), (x - y) ** 2], axis=1)) / len(x)
        return {
            "spearman": spearman,
            "pearson": pearson,
            "mae": errors[:, 0],
            "rmse": np.sqrt(errors[:, 1]),
        }

    def calibration_error(
        self, confidence: np.ndarray, correct: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """Compute the expected calibration error; see `expected_calibration_error`.

        Args:
            confidence: (texts,), the probability of the predicted label.
            correct: bool, (texts,).
            mask: bool, (texts,), the texts that count.
        """
        gaps = self._sum_per_draw(
            _sparse_one_hot(confidence_bin_ids(confidence), NUM_BINS, (confidence - correct) * mask)
        )
        texts = self._sum_per_draw(mask[:, None].astype(np.float32))
        return _divide_or_nan(np.abs(gaps).sum(axis=1), texts[:, 0])

    def auroc(self, scores: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """Compute the area under the ROC curve of scores, (texts,)."""
        _, rank = np.unique(scores, return_inverse=True)
        num_ranks = int(rank.max()) + 1
        order = np.argsort(rank, kind="stable")
        starts = np.searchsorted(rank[order], np.arange(num_ranks))
        auroc = np.empty(len(self._draw_counts))
        for rows in self._draw_slices():
            counts = self._draw_counts[rows][:, order].astype(np.float32)
            positives = np.add.reduceat(counts * is_positive[order], starts, axis=1)
            negatives = np.add.reduceat(counts * ~is_positive[order], starts, axis=1)
            wins = (positives * (np.cumsum(negatives, axis=1) - negatives / 2)).sum(axis=1)
            auroc[rows] = _divide_or_nan(wins, positives.sum(axis=1) * negatives.sum(axis=1))
        return auroc

    def _sum_per_draw(self, values: "np.ndarray | csr_matrix") -> np.ndarray:
        """Sum values, (texts, columns), over the texts of each draw: (resamples, columns)."""
        sums = np.empty((len(self._draw_counts), values.shape[1]))
        for rows in self._draw_slices():
            counts = self._draw_counts[rows].T.astype(np.float32)
            sums[rows] = (values.T @ counts).T
        return sums

    def _draw_slices(self) -> list[slice]:
        draws, texts = self._draw_counts.shape
        step = max(1, _CHUNK_SIZE // texts)
        return [slice(start, start + step) for start in range(0, draws, step)]


def confidence_interval(
    metric: str, value: float, resampled_values: np.ndarray, *, is_difference: bool = False
) -> tuple[float, float] | None:
    """Compute the 95 % interval of a metric; None if no resample has a value.

    The interval is bounded by percentiles (Efron & Tibshirani 1993, An Introduction to the
    Bootstrap, chapter 13). A calibration error is a sum of distances, which sampling inflates, and
    resampling inflates again. Its lower end is therefore the percentile mirrored at the value
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, equation 5.6). Without any
    true error, sampling inflates it 1 + √2 times as much as resampling; mirroring corrects 1 of
    it, and a further √2 keeps 0 in the interval. Both ends of a difference are mirrored.

    Args:
        metric: The name of the metric.
        value: Its value on the split.
        resampled_values: (resamples,), its values in the draws; NaN if undefined.
        is_difference: True for the difference of two models.
    """
    resampled_values = resampled_values[~np.isnan(resampled_values)]
    if not len(resampled_values):
        return None
    low, high = np.quantile(
        resampled_values, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2]
    )
    if "ece" in metric.split("_") and is_difference:
        low, high = 2 * value - high, 2 * value - low
    elif "ece" in metric.split("_"):
        high, inflation = max(high, value), max(0.0, resampled_values.mean() - value)
        low = max(0.0, 2 * value - high - 2**0.5 * inflation)
    return float(low), float(high)


def _sparse_one_hot(
    ids: np.ndarray, num_columns: int, values: np.ndarray | None = None
) -> csr_matrix:
    """Return a matrix (texts, columns) with one value in each row."""
    data = np.ones(len(ids)) if values is None else values
    rows = np.arange(len(ids) + 1)
    return csr_matrix((data.astype(np.float32), ids, rows), shape=(len(ids), num_columns))


def _macro_and_weighted_f1(
    true_positives: np.ndarray, support: np.ndarray, predicted_counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute macro and weighted F1 of each draw from counts, (resamples, classes)."""
    f1 = _divide_or_nan(2 * true_positives, support + predicted_counts)
    defined = ~np.isnan(f1)
    macro = _divide_or_nan(np.where(defined, f1, 0).sum(axis=1), defined.sum(axis=1))
    return {
        "macro_f1": macro,
        "weighted_f1": _divide_or_nan(np.nansum(support * f1, axis=1), support.sum(axis=1)),
    }


def _midranks_per_draw(draw_counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rank the texts of each draw, ties with their mean rank: (draws, texts)."""
    _, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(level.max() + 1))
    drawn = np.add.reduceat(draw_counts[:, order], starts, axis=1)
    return (np.cumsum(drawn, axis=1) - drawn / 2)[:, level]


def _pearson_per_draw(draw_counts: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation of x and y, (draws, texts), weighted by draw counts."""
    count = draw_counts.sum(axis=1, keepdims=True)
    x, y = (v - (draw_counts * v).sum(axis=1, keepdims=True) / count for v in (x, y))
    covariance, variance_x, variance_y = (
        (draw_counts * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y))
    )
    return _divide_or_nan(covariance, np.sqrt(variance_x * variance_y))


def _divide_or_nan(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; NaN for a denominator of 0, as a draw may miss a class."""
    return np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0
    )
