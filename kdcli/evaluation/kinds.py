"""What measuring a classifier means, by its task."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kdcli.evaluation import multi_label, regression, single_label
from kdcli.evaluation.figures import Answers, Chosen, Figures, Truth
from kdcli.recipe.schema import EvaluateSpec
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task


class Kind(Protocol):
    """A module that measures one task; references and predictions are as `Task.decide` has them."""

    def choose(
        self,
        logits: np.ndarray,
        references: np.ndarray,
        labels: Sequence[str],
        outside: int | None,
        spec: EvaluateSpec,
    ) -> Chosen:
        """What a model is to carry along, by its answers on validation texts.

        Args:
            logits: (texts, outputs).
            references: The data's labels.
            labels: The outputs' names.
            outside: The out-of-scope label's id, where one is named.
            spec: What the recipe says of it.
        """

    def figures(self, truth: Truth, said: Answers, other: Answers | None = None) -> Figures:
        """All figures of a model on a split, with those against another model."""

    def labelled(
        self, references: np.ndarray, predictions: np.ndarray, outside: int | None
    ) -> dict[str, float]:
        """The figures that predictions alone give, of some of the texts."""

    def against(self, truth: Truth, said: Answers, others: Answers) -> dict[str, Any]:
        """Two models in pairs: their agreement, and a test of which is right more often."""

    def in_words(self, labels: Sequence[str], predictions: np.ndarray) -> list[str]:
        """What each of some predictions is, for people."""

    def confidence(self, said: Answers) -> np.ndarray | None:
        """The probability of each prediction, (texts,)."""


_KINDS: Mapping[str, Kind] = {
    SINGLE_LABEL.name: single_label,
    MULTI_LABEL.name: multi_label,
    REGRESSION.name: regression,
}


def of(task: Task) -> Kind:
    """How a task is measured."""
    return _KINDS[task.name]
