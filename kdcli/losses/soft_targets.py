"""Soft targets: the teacher's softened probabilities."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdcli.losses.base import ModelOutputs, TemperatureLoss
from kdcli.tasks import MULTI_LABEL, REGRESSION, Task

if TYPE_CHECKING:
    from torch import Tensor


class SoftTargets(TemperatureLoss):
    """KL divergence to the teacher's softened outputs, times the temperature squared.

    Where a text has several labels, it is that of each label, and their mean.
    """

    needs = frozenset({"logits"})
    not_for: ClassVar = {REGRESSION.name: "it compares probabilities, and a score has none"}

    kind: Literal["soft_targets"] = "soft_targets"
    standardize_logits: bool = Field(
        False, description="Bring each text's logits to mean 0 and standard deviation 1 before."
    )

    def check_task(self, task: Task) -> None:
        """Check also that nothing is standardized where a text has several labels."""
        super().check_task(task)
        if task is MULTI_LABEL and self.standardize_logits:
            raise ValueError(
                "it has standardize_logits, and the height of a logit decides whether a label is "
                "present"
            )

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute `soft_target_kl`, or `binary_soft_target_kl` where a text has several labels."""
        logits, teacher_logits = student_outputs.logits, teacher_outputs.logits
        if labels.ndim > 1:
            return binary_soft_target_kl(logits, teacher_logits, self.current_temperature)
        if self.standardize_logits:
            logits, teacher_logits = standardize_logits(logits), standardize_logits(teacher_logits)
        return soft_target_kl(logits, teacher_logits, self.current_temperature)


def soft_target_kl(logits: "Tensor", teacher_logits: "Tensor", temperature: float) -> "Tensor":
    """Return the KL divergence from the teacher's softened outputs to the student's, times T².

    The gradient of the bare divergence shrinks with 1/T²; the factor keeps the term's weight the
    same whatever the temperature. Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2.

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes), in the same order of classes.
        temperature: T, above 0.

    Returns:
        T² · KL(softmax(teacher / T) ‖ softmax(student / T)), in nats, the mean over the batch.
    """
    import torch.nn.functional as F

    student = F.log_softmax(logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    # "mean" would divide by the classes as well.
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def binary_soft_target_kl(
    logits: "Tensor", teacher_logits: "Tensor", temperature: float
) -> "Tensor":
    """Return the soft-target loss of each label by itself, the mean over texts and labels.

    The probabilities of a text's labels don't sum to 1, so each label is a distribution of two.
    Yang et al. 2023 (arXiv:2308.06453), multi-label logits distillation, with the temperature, and
    its square as a factor, of `soft_target_kl`.

    Args:
        logits: The student's, (batch, labels).
        teacher_logits: The teacher's, (batch, labels), in the same order of labels.
        temperature: T, above 0.

    Returns:
        T² · KL(Bernoulli(sigmoid(teacher / T)) ‖ Bernoulli(sigmoid(student / T))), in nats.
    """
    import torch.nn.functional as F

    student, teacher = logits / temperature, teacher_logits / temperature
    present, absent = (
        F.logsigmoid(teacher).exp() * (F.logsigmoid(teacher) - F.logsigmoid(student)),
        F.logsigmoid(-teacher).exp() * (F.logsigmoid(-teacher) - F.logsigmoid(-student)),
    )
    return (present + absent).mean() * temperature**2


def standardize_logits(logits: "Tensor") -> "Tensor":
    """Return each text's logits with mean 0 and standard deviation 1.

    A student that need not reach the teacher's range can follow its ranking. Sun et al. 2024
    (arXiv:2403.01427), algorithm 1.

    Args:
        logits: (batch, classes).
    """
    from kdcli.losses.tensor_ops import min_divisor

    centred = logits - logits.mean(-1, keepdim=True)
    if logits.shape[-1] == 1:  # one number has no standard deviation
        return centred
    return centred / centred.std(-1, keepdim=True).clamp_min(min_divisor(logits, 1e-7))
