"""The terms of a loss: pure functions of tensors, and the table that a recipe's losses go through.

Shapes: logits are (batch, classes), labels (batch,); every term is a scalar, the mean over the
batch.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcli.data.encode import TEACHER_LOGITS
from kdcli.recipe.schema import CrossEntropySpec, LossSpec, SoftTargetsSpec

Batch = Mapping[str, Tensor]
Objective = Callable[[Tensor, Batch], dict[str, Tensor]]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with hard labels, in nats a text.

    Args:
        logits: The student's, (batch, classes).
        labels: Class ids, (batch,).
    """
    return F.cross_entropy(logits, labels)


def soft_targets(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's softened outputs to the student's, times T².

    The gradient of the bare divergence shrinks with 1/T²; the factor keeps the term's weight the
    same whatever the temperature. Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2.

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes), in the same order of classes.
        temperature: T, above 0.

    Returns:
        T² · KL(softmax(teacher / T) ‖ softmax(student / T)), in nats, the mean over the batch.
    """
    student = F.log_softmax(logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    # "mean" would divide by the classes as well.
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def objective(losses: Sequence[LossSpec]) -> Objective:
    """From a recipe's losses to the function that a training step calls.

    Returns:
        A function of the student's logits and the batch's targets that gives each term by name,
        weighted: their sum is the loss.
    """
    terms = [
        (_name(i, losses), spec.weight, _TERMS[type(spec)](spec)) for i, spec in enumerate(losses)
    ]

    def weighted(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {name: weight * term(logits, batch) for name, weight, term in terms if weight}

    return weighted


def needs_teacher(losses: Sequence[LossSpec]) -> bool:
    """Whether any term reads the teacher's outputs."""
    return any(isinstance(spec, SoftTargetsSpec) and spec.weight for spec in losses)


def _cross_entropy(spec: LossSpec) -> Callable[[Tensor, Batch], Tensor]:
    return lambda logits, batch: cross_entropy(logits, batch["labels"])


def _soft_targets(spec: LossSpec) -> Callable[[Tensor, Batch], Tensor]:
    assert isinstance(spec, SoftTargetsSpec)
    return lambda logits, batch: soft_targets(
        logits, batch[TEACHER_LOGITS].to(logits.dtype), spec.temperature
    )


_TERMS = {CrossEntropySpec: _cross_entropy, SoftTargetsSpec: _soft_targets}


def _name(place: int, losses: Sequence[LossSpec]) -> str:
    kinds: list[str] = [spec.kind for spec in losses]  # type: ignore[attr-defined]
    kind = kinds[place]
    return kind if kinds.count(kind) == 1 else f"{kind}_{kinds[:place].count(kind)}"


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of the weighted terms, a scalar."""
    return torch.stack(tuple(terms.values())).sum()
