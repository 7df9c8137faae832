"""How far a figure of so many texts can be trusted.

The bootstrap draws the texts of a split again, with replacement, a thousand times, and looks how a
figure varies. Every model sees the same draws, so that the difference of two models is resampled
in pairs: what makes a text hard for both falls out of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import binomtest

from kdcli.evaluation.calibration import BINS, bins

RESAMPLES = 1000
LEVEL = 0.95
_SEED = 20150
_CHUNK = 1 << 18  # numbers that are worked on at a time: as many as a processor's cache holds

# What is counted, among which texts (None: all): both (texts,).
Rate = tuple[np.ndarray, np.ndarray | None]


class Resamples:
    """Draws of a split's texts; each method gives one number a draw, (resamples,).

    Args:
        texts: How many texts the split has.
        resamples: How many draws.
    """

    def __init__(self, texts: int, resamples: int = RESAMPLES) -> None:
        random = np.random.default_rng(_SEED)
        # How often each text is drawn: about once, so that a byte is enough.
        self._times = np.empty((resamples, texts), dtype=np.uint8)
        for row in self._times:
            drawn = random.integers(texts, size=texts, dtype=np.int32)
            row[:] = np.bincount(drawn, minlength=texts)

    def rates(self, rates: Mapping[str, Rate]) -> dict[str, np.ndarray]:
        """Means of a value over some of the texts, by name."""
        columns = [
            column
            for value, among in rates.values()
            for column in (
                (value, np.ones(len(value)))
                if among is None
                else (np.where(among, value, 0), among)
            )
        ]
        sums = self._sums(np.stack(columns, axis=1).astype(np.float32))
        return {name: _divide(sums[:, 2 * i], sums[:, 2 * i + 1]) for i, name in enumerate(rates)}

    def of_classes(
        self, predictions: np.ndarray, references: np.ndarray, classes: int
    ) -> dict[str, np.ndarray]:
        """Balanced accuracy, macro and weighted F1.

        Args:
            predictions: (texts,) class ids.
            references: (texts,) class ids.
            classes: How many there are.
        """
        correct = predictions == references
        hits = self._sums(_indicators(references, classes, correct))
        real = self._sums(_indicators(references, classes))
        said = self._sums(_indicators(predictions, classes))
        recall = np.nanmean(_divide(hits, real), axis=1)
        return {"balanced_accuracy": recall, **_f1(hits, real, said)}

    def of_labels(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, np.ndarray]:
        """Micro, macro and weighted F1, where a text may have several labels.

        Args:
            predictions: (texts, labels) whether each label is given.
            references: (texts, labels) whether it is there.
        """
        hits, real, said = (
            self._sums(csr_matrix(values, dtype=np.float32))
            for values in (predictions & references, references, predictions)
        )
        micro = _divide(2 * hits.sum(axis=1), (real + said).sum(axis=1))
        return {"micro_f1": micro, **_f1(hits, real, said)}

    def of_scores(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, np.ndarray]:
        """Correlation of the scores and of their ranks, mean absolute and root mean squared error.

        Args:
            predictions: (texts,).
            references: (texts,).
        """
        x, y = (values.astype(np.float64) for values in (predictions, references))
        pearson, spearman = (np.empty(len(self._times)) for _ in range(2))
        for rows in self._chunks():
            times = self._times[rows].astype(np.float64)
            pearson[rows] = _correlation(times, x[None], y[None])
            spearman[rows] = _correlation(times, _midranks(times, x), _midranks(times, y))
        errors = self._sums(np.stack([np.abs(x - y), (x - y) ** 2], axis=1)) / len(x)
        return {
            "spearman": spearman,
            "pearson": pearson,
            "mae": errors[:, 0],
            "rmse": np.sqrt(errors[:, 1]),
        }

    def calibration_error(
        self, confidence: np.ndarray, correct: np.ndarray, among: np.ndarray
    ) -> np.ndarray:
        """The expected calibration error; see `kdcli.evaluation.calibration.expected_error`.

        Args:
            confidence: (texts,) the probability of the predicted label.
            correct: (texts,) whether it is the right one.
            among: (texts,) which texts count.
        """
        gaps = self._sums(_indicators(bins(confidence), BINS, (confidence - correct) * among))
        texts = self._sums(among[:, None].astype(np.float32))
        return _divide(np.abs(gaps).sum(axis=1), texts[:, 0])

    def auroc(self, score: np.ndarray, positive: np.ndarray) -> np.ndarray:
        """The chance that a positive text scores above another one, ties counting half."""
        _, rank = np.unique(score, return_inverse=True)
        levels = int(rank.max()) + 1
        order = np.argsort(rank, kind="stable")
        starts = np.searchsorted(rank[order], np.arange(levels))
        found = np.empty(len(self._times))
        for rows in self._chunks():
            times = self._times[rows][:, order].astype(np.float32)
            above = np.add.reduceat(times * positive[order], starts, axis=1)
            below = np.add.reduceat(times * ~positive[order], starts, axis=1)
            wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
            found[rows] = _divide(wins, above.sum(axis=1) * below.sum(axis=1))
        return found

    def _sums(self, values: "np.ndarray | csr_matrix") -> np.ndarray:
        """(resamples, columns): of each draw, the sum of (texts, columns)."""
        found = np.empty((len(self._times), values.shape[1]))
        for rows in self._chunks():
            times = self._times[rows].T.astype(np.float32)
            found[rows] = (values.T @ times).T
        return found

    def _chunks(self) -> list[slice]:
        draws, texts = self._times.shape
        step = max(1, _CHUNK // texts)
        return [slice(start, start + step) for start in range(0, draws, step)]


def interval(
    name: str, value: float, draws: np.ndarray, *, difference: bool = False
) -> tuple[float, float] | None:
    """A figure's 95 % interval; None where no draw has the figure.

    It is that of the percentiles (Efron & Tibshirani 1993, An Introduction to the Bootstrap,
    chapter 13). A calibration error is a sum of distances, which drawing texts makes longer, and
    drawing them again makes longer still: the lower end is the percentile mirrored at the figure
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, equation 5.6). Where there is
    no error at all, drawing the texts lengthens it 1 + √2 times as much as drawing again does, of
    which mirroring takes off 1; √2 more keeps 0 within. Of a difference both ends are mirrored.

    Args:
        name: The figure's.
        value: What it is on the texts themselves.
        draws: What it is in each resample; NaN where it has no value.
        difference: Whether it is the difference of two models' figures.
    """
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return None
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if "ece" in name.split("_") and difference:
        low, high = 2 * value - high, 2 * value - low
    elif "ece" in name.split("_"):
        high, longer = max(high, value), max(0.0, draws.mean() - value)
        low = max(0.0, 2 * value - high - 2**0.5 * longer)
    return float(low), float(high)


def mcnemar(correct: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of whether two models are right equally often on the same texts.

    Where they are, a text that only one of them gets right is either's with the same chance
    (McNemar 1947, in the exact form by the binomial distribution).

    Args:
        correct: (texts,) where this model is right.
        other: (texts,) where the other one is.

    Returns:
        `broken`, the texts that the other one alone gets right; `repaired`, those that this one
        does; `p`.
    """
    broken, repaired = int((other & ~correct).sum()), int((correct & ~other).sum())
    p = binomtest(broken, broken + repaired).pvalue if broken + repaired else 1.0
    return {"broken": broken, "repaired": repaired, "p": float(p)}


def _indicators(ids: np.ndarray, columns: int, values: np.ndarray | None = None) -> csr_matrix:
    """(texts, columns), with one value a row: in a dense matrix all but one were 0."""
    data = np.ones(len(ids)) if values is None else values
    rows = np.arange(len(ids) + 1)
    return csr_matrix((data.astype(np.float32), ids, rows), shape=(len(ids), columns))


def _f1(hits: np.ndarray, real: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    """Macro and weighted F1 of each draw, from (resamples, classes) of texts."""
    f1 = _divide(2 * hits, real + said)
    some = ~np.isnan(f1)
    macro = _divide(np.where(some, f1, 0).sum(axis=1), some.sum(axis=1))
    return {
        "macro_f1": macro,
        "weighted_f1": _divide(np.nansum(real * f1, axis=1), real.sum(axis=1)),
    }


def _midranks(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(draws, texts): each text's rank in each draw, the mean one where values are equal."""
    _, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(level.max() + 1))
    drawn = np.add.reduceat(times[:, order], starts, axis=1)
    return (np.cumsum(drawn, axis=1) - drawn / 2)[:, level]


def _correlation(times: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(draws,) Pearson's, of (draws, texts) values that each draw has so many times."""
    count = times.sum(axis=1, keepdims=True)
    x, y = (v - (times * v).sum(axis=1, keepdims=True) / count for v in (x, y))
    both, of_x, of_y = ((times * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y)))
    return _divide(both, np.sqrt(of_x * of_y))


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by: a draw may miss a class, or all that is counted."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
