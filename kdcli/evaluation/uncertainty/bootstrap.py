"""How far a figure of so many texts can be trusted.

The bootstrap draws the texts of a split again, with replacement, a thousand times, and looks how a
figure varies. Every model sees the same draws, so that the difference of two models is resampled
in pairs: what makes a text hard for both falls out of it.
"""

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix

from kdcli.evaluation.calibration.calibration_error import NUM_BINS, confidence_bin_ids
from kdcli.evaluation.metrics.metric_results import MaskedValues

NUM_RESAMPLES = 1000
CONFIDENCE_LEVEL = 0.95
_SEED = 20150
_CHUNK_SIZE = 1 << 18  # numbers that are worked on at a time: as many as a processor's cache holds


class BootstrapResamples:
    """Draws of a split's texts; each method gives one number a draw, (resamples,).

    Args:
        texts: How many texts the split has.
        resamples: How many draws.
    """

    def __init__(self, num_texts: int, num_resamples: int = NUM_RESAMPLES) -> None:
        random = np.random.default_rng(_SEED)
        # How often each text is drawn: about once, so that a byte is enough.
        self._draw_counts = np.empty((num_resamples, num_texts), dtype=np.uint8)
        for row in self._draw_counts:
            drawn = random.integers(num_texts, size=num_texts, dtype=np.int32)
            row[:] = np.bincount(drawn, minlength=num_texts)

    def masked_means(self, masked_values: Mapping[str, MaskedValues]) -> dict[str, np.ndarray]:
        """Means of a value over some of the texts, by name."""
        columns = [
            column
            for value, among in masked_values.values()
            for column in (
                (value, np.ones(len(value)))
                if among is None
                else (np.where(among, value, 0), among)
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
        """Balanced accuracy, macro and weighted F1.

        Args:
            predictions: (texts,) class ids.
            references: (texts,) class ids.
            num_classes: How many there are.
        """
        correct = predictions == references
        hits = self._sum_per_draw(_sparse_one_hot(references, num_classes, correct))
        real = self._sum_per_draw(_sparse_one_hot(references, num_classes))
        said = self._sum_per_draw(_sparse_one_hot(predictions, num_classes))
        recall = np.nanmean(_divide_or_nan(hits, real), axis=1)
        return {"balanced_accuracy": recall, **_macro_and_weighted_f1(hits, real, said)}

    def multilabel_f1(
        self, predictions: np.ndarray, references: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Micro, macro and weighted F1, where a text may have several labels.

        Args:
            predictions: (texts, labels) whether each label is given.
            references: (texts, labels) whether it is there.
        """
        hits, real, said = (
            self._sum_per_draw(csr_matrix(values, dtype=np.float32))
            for values in (predictions & references, references, predictions)
        )
        micro = _divide_or_nan(2 * hits.sum(axis=1), (real + said).sum(axis=1))
        return {"micro_f1": micro, **_macro_and_weighted_f1(hits, real, said)}

    def regression_metrics(
        self, predictions: np.ndarray, references: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Correlation of the scores and of their ranks, mean absolute and root mean squared error.

        Args:
            predictions: (texts,).
            references: (texts,).
        """
        x, y = (values.astype(np.float64) for values in (predictions, references))
        pearson, spearman = (np.empty(len(self._draw_counts)) for _ in range(2))
        for rows in self._draw_slices():
            times = self._draw_counts[rows].astype(np.float64)
            pearson[rows] = _pearson_per_draw(times, x[None], y[None])
            spearman[rows] = _pearson_per_draw(
                times, _midranks_per_draw(times, x), _midranks_per_draw(times, y)
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
        """The expected calibration error; see `kdcli.evaluation.calibration.expected_error`.

        Args:
            confidence: (texts,) the probability of the predicted label.
            correct: (texts,) whether it is the right one.
            mask: (texts,) which texts count.
        """
        gaps = self._sum_per_draw(
            _sparse_one_hot(confidence_bin_ids(confidence), NUM_BINS, (confidence - correct) * mask)
        )
        texts = self._sum_per_draw(mask[:, None].astype(np.float32))
        return _divide_or_nan(np.abs(gaps).sum(axis=1), texts[:, 0])

    def auroc(self, scores: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The chance that a positive text scores above another one, ties counting half."""
        _, rank = np.unique(scores, return_inverse=True)
        levels = int(rank.max()) + 1
        order = np.argsort(rank, kind="stable")
        starts = np.searchsorted(rank[order], np.arange(levels))
        found = np.empty(len(self._draw_counts))
        for rows in self._draw_slices():
            times = self._draw_counts[rows][:, order].astype(np.float32)
            above = np.add.reduceat(times * is_positive[order], starts, axis=1)
            below = np.add.reduceat(times * ~is_positive[order], starts, axis=1)
            wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
            found[rows] = _divide_or_nan(wins, above.sum(axis=1) * below.sum(axis=1))
        return found

    def _sum_per_draw(self, values: "np.ndarray | csr_matrix") -> np.ndarray:
        """(resamples, columns): of each draw, the sum of (texts, columns)."""
        found = np.empty((len(self._draw_counts), values.shape[1]))
        for rows in self._draw_slices():
            times = self._draw_counts[rows].T.astype(np.float32)
            found[rows] = (values.T @ times).T
        return found

    def _draw_slices(self) -> list[slice]:
        draws, texts = self._draw_counts.shape
        step = max(1, _CHUNK_SIZE // texts)
        return [slice(start, start + step) for start in range(0, draws, step)]


def confidence_interval(
    metric: str, value: float, resampled_values: np.ndarray, *, is_difference: bool = False
) -> tuple[float, float] | None:
    """A figure's 95 % interval; None where no draw has the figure.

    It is that of the percentiles (Efron & Tibshirani 1993, An Introduction to the Bootstrap,
    chapter 13). A calibration error is a sum of distances, which drawing texts makes longer, and
    drawing them again makes longer still: the lower end is the percentile mirrored at the figure
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, equation 5.6). Where there is
    no error at all, drawing the texts lengthens it 1 + √2 times as much as drawing again does, of
    which mirroring takes off 1; √2 more keeps 0 within. Of a difference both ends are mirrored.

    Args:
        metric: The figure's.
        value: What it is on the texts themselves.
        resampled_values: What it is in each resample; NaN where it has no value.
        is_difference: Whether it is the difference of two models' figures.
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
        high, longer = max(high, value), max(0.0, resampled_values.mean() - value)
        low = max(0.0, 2 * value - high - 2**0.5 * longer)
    return float(low), float(high)


def _sparse_one_hot(
    ids: np.ndarray, num_columns: int, values: np.ndarray | None = None
) -> csr_matrix:
    """(texts, columns), with one value a row: in a dense matrix all but one were 0."""
    data = np.ones(len(ids)) if values is None else values
    rows = np.arange(len(ids) + 1)
    return csr_matrix((data.astype(np.float32), ids, rows), shape=(len(ids), num_columns))


def _macro_and_weighted_f1(
    true_positives: np.ndarray, support: np.ndarray, predicted_counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Macro and weighted F1 of each draw, from (resamples, classes) of texts."""
    f1 = _divide_or_nan(2 * true_positives, support + predicted_counts)
    some = ~np.isnan(f1)
    macro = _divide_or_nan(np.where(some, f1, 0).sum(axis=1), some.sum(axis=1))
    return {
        "macro_f1": macro,
        "weighted_f1": _divide_or_nan(np.nansum(support * f1, axis=1), support.sum(axis=1)),
    }


def _midranks_per_draw(draw_counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(draws, texts): each text's rank in each draw, the mean one where values are equal."""
    _, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(level.max() + 1))
    drawn = np.add.reduceat(draw_counts[:, order], starts, axis=1)
    return (np.cumsum(drawn, axis=1) - drawn / 2)[:, level]


def _pearson_per_draw(draw_counts: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(draws,) Pearson's, of (draws, texts) values that each draw has so many times."""
    count = draw_counts.sum(axis=1, keepdims=True)
    x, y = (v - (draw_counts * v).sum(axis=1, keepdims=True) / count for v in (x, y))
    both, of_x, of_y = ((draw_counts * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y)))
    return _divide_or_nan(both, np.sqrt(of_x * of_y))


def _divide_or_nan(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by: a draw may miss a class, or all that is counted."""
    return np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0
    )
