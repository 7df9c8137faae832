"""Decoupled knowledge distillation (DKD)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdcli.losses.base import ModelOutputs, TemperatureLoss
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from torch import Tensor

_REASON = "it sets one label against all others"


class DecoupledKD(TemperatureLoss):
    """Soft targets in two parts: the label against the others, and the others among themselves."""

    needs = frozenset({"logits"})
    not_for: ClassVar = {MULTI_LABEL.name: _REASON, REGRESSION.name: _REASON}

    kind: Literal["decoupled_kd"] = "decoupled_kd"
    target_class_weight: float = Field(
        1.0, ge=0, description="Weight of the label against the other classes."
    )
    non_target_class_weight: float = Field(
        2.0, ge=0, description="Weight of the other classes among themselves."
    )

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute `decoupled_kd_loss`; the teacher's class stands in for a missing label."""
        import torch

        missing = labels == SINGLE_LABEL.missing_label
        return decoupled_kd_loss(
            student_outputs.logits,
            teacher_outputs.logits,
            torch.where(missing, teacher_outputs.logits.argmax(-1), labels),
            temperature=self.current_temperature,
            target_class_weight=self.target_class_weight,
            non_target_class_weight=self.non_target_class_weight,
        )


def decoupled_kd_loss(
    logits: "Tensor",
    teacher_logits: "Tensor",
    labels: "Tensor",
    *,
    temperature: float,
    target_class_weight: float,
    non_target_class_weight: float,
) -> "Tensor":
    """Return soft targets in two parts: certainty of the label, and ranking of the other classes.

    In plain soft targets the teacher's doubt weighs the second part, and a teacher that is sure
    teaches little. Zhao et al. 2022 (arXiv:2203.08679), equation 7, times T².

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes).
        labels: Class ids, (batch,).
        temperature: T, above 0.
        target_class_weight: The weight of the label's class against all others.
        non_target_class_weight: The weight of the other classes among themselves.

    Returns:
        A scalar; 0, with a gradient of 0, if there is only one class.
    """
    import torch
    import torch.nn.functional as F

    if logits.shape[-1] == 1:
        return 0 * logits.sum()
    is_target = F.one_hot(labels, logits.shape[-1]).bool()
    log_s, log_t = (F.log_softmax(x / temperature, dim=-1) for x in (logits, teacher_logits))
    binary = [
        torch.stack([x[is_target], x.masked_fill(is_target, -torch.inf).logsumexp(-1)], dim=-1)
        for x in (log_s, log_t)
    ]
    rest = [
        F.log_softmax(x[~is_target].view(len(x), -1) / temperature, dim=-1)
        for x in (logits, teacher_logits)
    ]
    target_part, other_part = (
        F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in (binary, rest)
    )
    weighted = target_class_weight * target_part + non_target_class_weight * other_part
    return weighted * temperature**2
