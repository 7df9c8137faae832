"""A teacher of another package."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdcli.recipe.black_box_teachers import BlackBoxTeacher

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from kdcli.teachers.black_box_context import BlackBoxContext


class KeywordTeacher(BlackBoxTeacher):
    """Gives a text the label that it contains as a word."""

    kind: Literal["keywords"] = "keywords"
    confidence: float = Field(0.9, gt=0, lt=1, description="Probability of a label that occurs.")

    def create_predictor(
        self, context: "BlackBoxContext"
    ) -> "Callable[[Dataset, Callable[[int, int], None]], np.ndarray]":
        """Return a function that gives the logits of a split, (texts, labels)."""
        import numpy as np

        from kdcli.teachers.logit_conversion import convert_to_logits

        labels = context.dataset_splits.label_names

        def predict_logits(
            split: "Dataset", progress: "Callable[[int, int], None]"
        ) -> "np.ndarray":
            occurs = np.array(
                [[label in text.split() for label in labels] for text in split["text"]]
            )
            progress(len(occurs), len(occurs))
            probabilities = np.where(occurs, self.confidence, 1 - self.confidence)
            return convert_to_logits(probabilities, "probabilities", context.dataset_splits.task)

        return predict_logits
