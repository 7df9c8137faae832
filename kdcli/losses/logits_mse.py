"""Mean squared error of the logits."""

from typing import TYPE_CHECKING, Literal

from kdcli.losses.base import Loss, ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor


class LogitsMSE(Loss):
    """Mean squared difference of the logits."""

    needs = frozenset({"logits"})

    kind: Literal["logits_mse"] = "logits_mse"

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute `logits_mse`."""
        return logits_mse(student_outputs.logits, teacher_outputs.logits)


def logits_mse(logits: "Tensor", teacher_logits: "Tensor") -> "Tensor":
    """Return the mean squared difference of the logits, over texts and classes.

    Ba and Caruana 2014 (arXiv:1312.6184): regression on logits, here as a mean.

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes).
    """
    import torch.nn.functional as F

    return F.mse_loss(logits, teacher_logits)
