"""Contrastive distillation."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdcli.losses.base import Loss, ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor


class Contrastive(Loss):
    """Finding a text's teacher representation among those of its batch."""

    needs = frozenset({"hidden_states"})
    compares = "pooled"

    kind: Literal["contrastive"] = "contrastive"
    temperature: float = Field(0.1, gt=0, description="Divides the cosines.")

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute `contrastive_loss`."""
        return contrastive_loss(
            student_outputs.hidden_states[0], teacher_outputs.hidden_states[0], self.temperature
        )


def contrastive_loss(pooled: "Tensor", teacher_pooled: "Tensor", temperature: float) -> "Tensor":
    """Return the cross-entropy of finding a text's teacher representation in its batch.

    Sun et al. 2020 (CoDIR, arXiv:2009.14167), with the batch's other texts in place of a memory
    bank.

    Args:
        pooled: The student's, (batch, width).
        teacher_pooled: The teacher's, (batch, width).
        temperature: τ, divides the cosines.
    """
    import torch
    import torch.nn.functional as F

    from kdcli.losses.tensor_ops import min_divisor

    student, teacher = (
        F.normalize(x, dim=-1, eps=min_divisor(x, 1e-12)) for x in (pooled, teacher_pooled)
    )
    own_index = torch.arange(len(pooled), device=pooled.device)
    return F.cross_entropy(student @ teacher.T / temperature, own_index)
