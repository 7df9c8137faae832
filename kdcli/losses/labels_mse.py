"""Mean squared error from the data's own scores."""

from typing import TYPE_CHECKING, ClassVar, Literal

from kdcli.losses.base import LabelLoss, LabelLossOptions, ModelOutputs
from kdcli.tasks import MULTI_LABEL, SINGLE_LABEL

if TYPE_CHECKING:
    from torch import Tensor

_REASON = "it compares scores, and the labels are names"


class LabelsMSE(LabelLoss):
    """Mean squared difference from the data's own scores."""

    not_for: ClassVar = {SINGLE_LABEL.name: _REASON, MULTI_LABEL.name: _REASON}

    kind: Literal["labels_mse"] = "labels_mse"

    def forward(
        self,
        student_outputs: ModelOutputs,
        teacher_outputs: ModelOutputs,
        labels: "Tensor",
        options: LabelLossOptions = LabelLossOptions(),
    ) -> "Tensor":
        """Compute `labels_mse`."""
        return labels_mse(student_outputs.logits, labels)


def labels_mse(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Return the mean squared difference from the data's scores, in their unit squared.

    Args:
        logits: The student's, (batch, 1).
        labels: Scores, (batch,).
    """
    import torch.nn.functional as F

    return F.mse_loss(logits.squeeze(-1), labels.to(logits))
