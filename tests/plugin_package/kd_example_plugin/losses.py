"""A loss of another package."""

from typing import TYPE_CHECKING, Literal

from kdcli.losses import Loss
from kdcli.losses.base import ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor


class CosineLogits(Loss):
    """1 minus the cosine between the logits of student and teacher."""

    needs = frozenset({"logits"})

    kind: Literal["cosine_logits"] = "cosine_logits"

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute the mean over the rows of a batch."""
        from torch.nn.functional import cosine_similarity

        return (1 - cosine_similarity(student_outputs.logits, teacher_outputs.logits)).mean()
