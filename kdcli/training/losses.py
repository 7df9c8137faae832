"""The terms of a loss: pure functions of tensors.

Shapes: logits are (batch, classes), labels (batch,) or, where a text has several, (batch, classes)
of 0 and 1, hidden states (batch, tokens, width), masks
(batch, tokens) with 1 where there is a token and 0 where there is padding. Every term is a scalar,
the mean over the batch, and 0 where the student is as the teacher is (cross-entropy and the
contrastive term apart, which have no such floor).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Cross-entropy with hard labels, in nats a text.

    Args:
        logits: The student's, (batch, classes).
        labels: Class ids, (batch,).
        class_weights: What a text of each class counts, (classes,). The mean is over texts, not over
            weights, so that the loss of a batch doesn't depend on how it is cut up.
        label_smoothing: The share of a label that goes to all classes alike. Szegedy et al. 2016
            (arXiv:1512.00567), section 7.
        focal_gamma: Gamma: a text counts (1 - p)^gamma, where p is the probability of its label. Lin et
            al. 2017 (arXiv:1708.02002), equation 4.
    """
    terms = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if focal_gamma:
        right = F.log_softmax(logits, dim=-1).gather(-1, labels[:, None]).squeeze(-1)
        # No gradient at p = 1, where (1 - p)^gamma may have none.
        terms = terms * (1 - right.exp()).clamp_min(1e-7) ** focal_gamma
    if class_weights is not None:
        terms = terms * class_weights[labels]
    return terms.mean()


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Cross-entropy of each label by itself, in nats, the mean over texts and labels.

    Args:
        logits: The student's, (batch, labels).
        labels: 1 where a label is there, 0 elsewhere, (batch, labels).
        class_weights: What each label counts where it isn't there, and where it is, (2, labels).
        label_smoothing: The share of each that goes to there and not there alike.
        focal_gamma: Gamma: a label counts (1 - p)^gamma, where p is the probability of what is so. Lin
            et al. 2017 (arXiv:1708.02002), equation 4.
    """
    there = labels.to(logits)
    wanted = there * (1 - label_smoothing) + label_smoothing / 2
    terms = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if focal_gamma:
        right = torch.where(labels > 0, logits, -logits).sigmoid()
        # No gradient at p = 1, where (1 - p)^gamma may have none.
        terms = terms * (1 - right).clamp_min(1e-7) ** focal_gamma
    if class_weights is not None:
        terms = terms * torch.where(labels > 0, class_weights[1], class_weights[0])
    return terms.mean()


def labels_mse(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared difference from the data's scores, in their unit squared.

    Args:
        logits: The student's, (batch, 1).
        labels: Scores, (batch,).
    """
    return F.mse_loss(logits.squeeze(-1), labels.to(logits))


def soft_target_kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
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


def binary_soft_target_kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Soft targets of each label by itself: there or not, the mean over texts and labels.

    The probabilities of a text's labels don't sum up to 1, so that each is a distribution of two.
    Yang et al. 2023 (arXiv:2308.06453), multi-label logits distillation, with the temperature, and
    its square as a factor, of `soft_targets`.

    Args:
        logits: The student's, (batch, labels).
        teacher_logits: The teacher's, (batch, labels), in the same order of labels.
        temperature: T, above 0.

    Returns:
        T² · KL(Bernoulli(sigmoid(teacher / T)) ‖ Bernoulli(sigmoid(student / T))), in nats.
    """
    student, teacher = logits / temperature, teacher_logits / temperature
    there, not_there = (
        F.logsigmoid(teacher).exp() * (F.logsigmoid(teacher) - F.logsigmoid(student)),
        F.logsigmoid(-teacher).exp() * (F.logsigmoid(-teacher) - F.logsigmoid(-student)),
    )
    return (there + not_there).mean() * temperature**2


def standardise_logits(logits: Tensor) -> Tensor:
    """Each text's logits with mean 0 and standard deviation 1.

    A student that need not reach the teacher's range can follow its ranking. Sun et al. 2024
    (arXiv:2403.01427), algorithm 1.

    Args:
        logits: (batch, classes).
    """
    centred = logits - logits.mean(-1, keepdim=True)
    if logits.shape[-1] == 1:  # one number has no standard deviation
        return centred
    return centred / centred.std(-1, keepdim=True).clamp_min(_min_divisor(logits, 1e-7))


def logits_mse(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared difference of the logits, over texts and classes.

    Ba and Caruana 2014 (arXiv:1312.6184): regression on logits, here as a mean.

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes).
    """
    return F.mse_loss(logits, teacher_logits)


def decoupled_kd_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    target_weight: float,
    non_target_weight: float,
) -> Tensor:
    """Soft targets in two parts: how sure of the label, and which of the other classes are near.

    In plain soft targets the second part is weighed by the teacher's doubt, and a teacher that is
    sure teaches little. Zhao et al. 2022 (arXiv:2203.08679), equation 7, times T².

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes).
        labels: Class ids, (batch,).
        temperature: T, above 0.
        target_weight: The weight of the label's class against all others.
        non_target_weight: The weight of the other classes among themselves.

    Returns:
        0, with a gradient of 0, where there is one class only: it has no others.
    """
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
    return (target_weight * target_part + non_target_weight * other_part) * temperature**2


def dist_correlation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    inter_class_weight: float,
    intra_class_weight: float,
) -> Tensor:
    """How little the softened outputs correlate (DIST), times T².

    The student is free in scale and shift, and has to agree on the order only: of the classes in
    each text, and of the texts in each class. Huang et al. 2022 (arXiv:2205.10536), section 3.

    Args:
        logits: The student's, (batch, classes).
        teacher_logits: The teacher's, (batch, classes).
        temperature: T, above 0.
        inter_class_weight: The weight of 1 minus the correlation over the classes of a text.
        intra_class_weight: The weight of 1 minus the correlation over the texts of a class.
    """
    student, teacher = (F.softmax(x / temperature, dim=-1) for x in (logits, teacher_logits))
    within = 1 - _pearson(student, teacher).mean()
    between = 1 - _pearson(student.T, teacher.T).mean() if len(logits) > 1 else within * 0
    return (inter_class_weight * within + intra_class_weight * between) * temperature**2


def hidden_state_mse(
    hidden_states: Tensor, teacher_hidden_states: Tensor, attention_mask: Tensor
) -> Tensor:
    """Mean squared difference of hidden states, over tokens and width.

    Jiao et al. 2020 (TinyBERT, arXiv:1909.10351), equations 8 and 9; the student's states come
    projected to the teacher's width where theirs is another.

    Args:
        hidden_states: The student's, (batch, tokens, width).
        teacher_hidden_states: The teacher's, (batch, tokens, width).
        attention_mask: (batch, tokens).
    """
    return _masked_token_mean(
        (hidden_states - teacher_hidden_states).square().mean(-1), attention_mask
    )


def hidden_state_cosine_distance(
    hidden_states: Tensor, teacher_hidden_states: Tensor, attention_mask: Tensor
) -> Tensor:
    """1 minus the cosine between student's and teacher's state of a token, the mean over tokens.

    Sanh et al. 2019 (DistilBERT, arXiv:1910.01108), section 3, the term L_cos.

    Args:
        hidden_states: The student's, (batch, tokens, width).
        teacher_hidden_states: The teacher's, (batch, tokens, width).
        attention_mask: (batch, tokens).
    """
    return _masked_token_mean(1 - _cosine(hidden_states, teacher_hidden_states), attention_mask)


def attention_kl(attentions: Tensor, teacher_attentions: Tensor, attention_mask: Tensor) -> Tensor:
    """KL divergence from the teacher's attention to the student's, the mean over heads and tokens.

    Sun et al. 2020 (MobileBERT, arXiv:2004.02984), attention transfer. Where the numbers of heads
    differ, the heads' mean is compared.

    Args:
        attentions: The student's, (batch, heads, tokens, tokens): what each token looks at.
        teacher_attentions: The teacher's, (batch, its heads, tokens, tokens).
        attention_mask: (batch, tokens).
    """
    if attentions.shape[1] != teacher_attentions.shape[1]:
        attentions, teacher_attentions = (
            x.mean(1, keepdim=True) for x in (attentions, teacher_attentions)
        )
    return _masked_kl(_safe_log(attentions), _safe_log(teacher_attentions), attention_mask)


def qkv_relation_kl(
    qkv: Tensor, teacher_qkv: Tensor, attention_mask: Tensor, num_relation_heads: int
) -> Tensor:
    """KL divergence between how tokens relate to one another in teacher and student.

    The states are queries, keys or values; the relation of two tokens is the softmax of their
    scaled product, so that widths may differ. Wang et al. 2021 (MiniLMv2, arXiv:2012.15828),
    section 3.

    Args:
        qkv: The student's, (batch, tokens, width).
        teacher_qkv: The teacher's, (batch, tokens, its width).
        attention_mask: (batch, tokens).
        num_relation_heads: How many relation heads the states are cut into; divides both widths.
    """
    student, teacher = (
        _log_relations(x, attention_mask, num_relation_heads) for x in (qkv, teacher_qkv)
    )
    return _masked_kl(student, teacher, attention_mask)


def contrastive_loss(pooled: Tensor, teacher_pooled: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding a text's teacher representation among those of its batch.

    Sun et al. 2020 (CoDIR, arXiv:2009.14167), with the batch's other texts in place of a memory
    bank.

    Args:
        pooled: The student's, (batch, width).
        teacher_pooled: The teacher's, (batch, width).
        temperature: τ, divides the cosines.
    """
    student, teacher = (
        F.normalize(x, dim=-1, eps=_min_divisor(x, 1e-12)) for x in (pooled, teacher_pooled)
    )
    own = torch.arange(len(pooled), device=pooled.device)
    return F.cross_entropy(student @ teacher.T / temperature, own)


def mean_pool(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean state of each text's tokens, (batch, width).

    Args:
        hidden_states: (batch, tokens, width).
        attention_mask: (batch, tokens).
    """
    weights = attention_mask.to(hidden_states.dtype)[..., None]
    return (hidden_states * weights).sum(1) / weights.sum(1)


def _pearson(left: Tensor, right: Tensor) -> Tensor:
    """The correlation of each row."""
    left, right = (x - x.mean(-1, keepdim=True) for x in (left, right))
    return _cosine(left, right)


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    return F.cosine_similarity(left, right, dim=-1, eps=_min_divisor(left, 1e-8))


def _min_divisor(values: Tensor, default_eps: float) -> float:
    """The least to divide by: float16 rounds what is usual to 0, and overflows beyond 65,504."""
    return torch.finfo(torch.float16).eps if values.dtype == torch.float16 else default_eps


def _masked_token_mean(values: Tensor, attention_mask: Tensor) -> Tensor:
    weights = attention_mask.to(values.dtype)
    return (values * weights).sum() / weights.sum()


def _safe_log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _log_relations(qkv: Tensor, attention_mask: Tensor, num_relation_heads: int) -> Tensor:
    """The logarithms of the relations, (batch, heads, tokens, tokens)."""
    batch, tokens, width = qkv.shape
    split = qkv.view(batch, tokens, num_relation_heads, width // num_relation_heads).transpose(1, 2)
    products = split @ split.transpose(-1, -2) / (width // num_relation_heads) ** 0.5
    # Padding is no token to relate to.
    hidden = attention_mask[:, None, None, :] == 0
    return products.masked_fill(hidden, torch.finfo(products.dtype).min).log_softmax(-1)


def _masked_kl(log_student: Tensor, log_teacher: Tensor, attention_mask: Tensor) -> Tensor:
    """KL of (batch, heads, tokens, tokens) distributions, the mean over heads and true tokens."""
    terms = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    divergence = terms.masked_fill(attention_mask[:, None, None, :] == 0, 0.0).sum(-1).mean(1)
    return _masked_token_mean(divergence, attention_mask)
