"""Correlation of the softened outputs (DIST)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdcli.losses.base import ModelOutputs, TemperatureLoss
from kdcli.tasks import MULTI_LABEL, REGRESSION

if TYPE_CHECKING:
    from torch import Tensor

_REASON = "it compares the labels of a text with one another"


class Correlation(TemperatureLoss):
    """1 minus the correlation of the softened outputs, over classes and over texts (DIST)."""

    needs = frozenset({"logits"})
    not_for: ClassVar = {MULTI_LABEL.name: _REASON, REGRESSION.name: _REASON}

    kind: Literal["correlation"] = "correlation"
    inter_class_weight: float = Field(
        1.0, ge=0, description="Weight of the order of a text's classes."
    )
    intra_class_weight: float = Field(
        1.0, ge=0, description="Weight of the order of a class's texts."
    )

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute `dist_correlation_loss`."""
        return dist_correlation_loss(
            student_outputs.logits,
            teacher_outputs.logits,
            temperature=self.current_temperature,
            inter_class_weight=self.inter_class_weight,
            intra_class_weight=self.intra_class_weight,
        )


def dist_correlation_loss(
    logits: "Tensor",
    teacher_logits: "Tensor",
    *,
    temperature: float,
    inter_class_weight: float,
    intra_class_weight: float,
) -> "Tensor":
    """Return 1 minus the correlation of the softened outputs (DIST), times T².

    The student is free in scale and shift, and has to agree on the order only: of the classes in
    each text, and of the texts in each class. Huang et al. 2022 (arXiv:2205.10536), section 3.

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes).
        temperature: T, above 0.
        inter_class_weight: The weight of 1 minus the correlation over the classes of a text.
        intra_class_weight: The weight of 1 minus the correlation over the texts of a class.
    """
    import torch.nn.functional as F

    student, teacher = (F.softmax(x / temperature, dim=-1) for x in (logits, teacher_logits))
    within = 1 - _pearson(student, teacher).mean()
    between = 1 - _pearson(student.T, teacher.T).mean() if len(logits) > 1 else within * 0
    return (inter_class_weight * within + intra_class_weight * between) * temperature**2


def _pearson(left: "Tensor", right: "Tensor") -> "Tensor":
    """The correlation of each row."""
    from kdcli.losses.tensor_ops import cosine

    left, right = (x - x.mean(-1, keepdim=True) for x in (left, right))
    return cosine(left, right)
