"""Tensor operations that several losses share.

Shapes: hidden states are (batch, tokens, width), masks (batch, tokens) with 1 for a token and 0 for
padding.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcli.tasks import REGRESSION, Task


def has_label_mask(labels: Tensor, task: Task) -> Tensor:
    """Return which rows have a label, (rows,), of labels as `map_labels_to_model` gives them."""
    first = labels if labels.ndim == 1 else labels[:, 0]
    return ~first.isnan() if task is REGRESSION else first != task.missing_label


def mean_over_layers(
    loss_function: Callable[..., Tensor],
    student_states: Sequence[Tensor] | Mapping[int, Tensor],
    teacher_states: Sequence[Tensor] | Mapping[int, Tensor],
    *arguments: object,
) -> Tensor:
    """Apply a loss function to each pair of states, and return the mean."""
    values = [
        loss_function(student_states[i], teacher_states[i], *arguments)
        for i in range(len(student_states))
    ]
    return torch.stack(values).mean()


def mean_pool(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean state of each text's tokens, (batch, width).

    Args:
        hidden_states: (batch, tokens, width).
        attention_mask: (batch, tokens).
    """
    weights = attention_mask.to(hidden_states.dtype)[..., None]
    return (hidden_states * weights).sum(1) / weights.sum(1)


def masked_token_mean(values: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of (batch, tokens) values over all tokens that are no padding."""
    weights = attention_mask.to(values.dtype)
    return (values * weights).sum() / weights.sum()


def masked_kl(log_student: Tensor, log_teacher: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean KL of (batch, heads, tokens, tokens) distributions over heads and tokens."""
    terms = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    divergence = terms.masked_fill(attention_mask[:, None, None, :] == 0, 0.0).sum(-1).mean(1)
    return masked_token_mean(divergence, attention_mask)


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine along the last dimension, finite in float16 too."""
    return F.cosine_similarity(left, right, dim=-1, eps=min_divisor(left, 1e-8))


def min_divisor(values: Tensor, default: float) -> float:
    """Return the smallest safe divisor: float16 rounds the usual one to 0 and ends at 65,504."""
    return torch.finfo(torch.float16).eps if values.dtype == torch.float16 else default
