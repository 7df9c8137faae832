"""Cross-entropy with the data's own labels."""

from typing import TYPE_CHECKING, ClassVar, Literal

from kdcli.losses.base import LabelLoss, LabelLossOptions, ModelOutputs
from kdcli.tasks import REGRESSION

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(LabelLoss):
    """Cross-entropy with the data's own (hard) labels; of each label, where a text has several."""

    not_for: ClassVar = {REGRESSION.name: "it compares probabilities, and a score has none"}

    kind: Literal["cross_entropy"] = "cross_entropy"

    def forward(
        self,
        student_outputs: ModelOutputs,
        teacher_outputs: ModelOutputs,
        labels: "Tensor",
        options: LabelLossOptions = LabelLossOptions(),
    ) -> "Tensor":
        """Compute `cross_entropy`, or `binary_cross_entropy` where a text has several labels."""
        logits, weights = student_outputs.logits, options.class_weights
        return (cross_entropy if labels.ndim == 1 else binary_cross_entropy)(
            logits,
            labels,
            class_weights=None if weights is None else weights.to(logits),
            label_smoothing=options.label_smoothing,
            focal_gamma=options.focal_gamma,
        )


def cross_entropy(
    logits: "Tensor",
    labels: "Tensor",
    *,
    class_weights: "Tensor | None" = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> "Tensor":
    """Return the cross-entropy with hard labels, in nats, the mean over texts.

    Args:
        logits: The student's, (batch, classes).
        labels: Class ids, (batch,).
        class_weights: Weight of a text of each class, (classes,). The mean is over texts, not over
            weights, so that the loss of a batch doesn't depend on how it is split.
        label_smoothing: Share of a label that is spread over all classes. Szegedy et al. 2016
            (arXiv:1512.00567), section 7.
        focal_gamma: Weighs a text by (1 - p)^gamma, where p is the probability of its label. Lin et
            al. 2017 (arXiv:1708.02002), equation 4.
    """
    import torch.nn.functional as F

    terms = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if focal_gamma:
        right = F.log_softmax(logits, dim=-1).gather(-1, labels[:, None]).squeeze(-1)
        # No gradient at p = 1, where (1 - p)^gamma may have none.
        terms = terms * (1 - right.exp()).clamp_min(1e-7) ** focal_gamma
    if class_weights is not None:
        terms = terms * class_weights[labels]
    return terms.mean()


def binary_cross_entropy(
    logits: "Tensor",
    labels: "Tensor",
    *,
    class_weights: "Tensor | None" = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> "Tensor":
    """Return the cross-entropy of each label by itself, in nats, the mean over texts and labels.

    Args:
        logits: The student's, (batch, labels).
        labels: 1 for a present label, 0 for an absent one, (batch, labels).
        class_weights: Weights of each label where it is absent and present, (2, labels).
        label_smoothing: Share of each label that is spread over present and absent.
        focal_gamma: Weighs a label by (1 - p)^gamma, where p is the probability of the truth. Lin
            et al. 2017 (arXiv:1708.02002), equation 4.
    """
    import torch
    import torch.nn.functional as F

    targets = labels.to(logits) * (1 - label_smoothing) + label_smoothing / 2
    terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if focal_gamma:
        right = torch.where(labels > 0, logits, -logits).sigmoid()
        # No gradient at p = 1, where (1 - p)^gamma may have none.
        terms = terms * (1 - right).clamp_min(1e-7) ** focal_gamma
    if class_weights is not None:
        terms = terms * torch.where(labels > 0, class_weights[1], class_weights[0])
    return terms.mean()
