"""KL divergence between the attention of teacher and student."""

from typing import TYPE_CHECKING, Literal

from kdcli.losses.base import LayerwiseLoss

if TYPE_CHECKING:
    from torch import Tensor


def attention_kl(
    attentions: "Tensor", teacher_attentions: "Tensor", attention_mask: "Tensor"
) -> "Tensor":
    """Return the KL from the teacher's attention to the student's, the mean over heads and tokens.

    Sun et al. 2020 (MobileBERT, arXiv:2004.02984), attention transfer. Where the numbers of heads
    differ, the heads' mean is compared.

    Args:
        attentions: The student's, (batch, heads, tokens, tokens), summing to 1 along the last.
        teacher_attentions: The teacher's, (batch, its heads, tokens, tokens).
        attention_mask: (batch, tokens).
    """
    from kdcli.losses.tensor_ops import masked_kl

    if attentions.shape[1] != teacher_attentions.shape[1]:
        attentions, teacher_attentions = (
            x.mean(1, keepdim=True) for x in (attentions, teacher_attentions)
        )
    return masked_kl(_safe_log(attentions), _safe_log(teacher_attentions), attention_mask)


class AttentionKL(LayerwiseLoss):
    """KL divergence of the attention probabilities."""

    needs = frozenset({"attentions"})
    layer_loss = attention_kl

    kind: Literal["attention_kl"] = "attention_kl"


def _safe_log(probabilities: "Tensor") -> "Tensor":
    import torch

    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
