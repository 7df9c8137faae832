"""The losses, held by their mathematics."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from kdcli.losses.attention_kl import attention_kl
from kdcli.losses.attention_relations import qkv_relation_kl
from kdcli.losses.contrastive import contrastive_loss
from kdcli.losses.correlation import dist_correlation_loss
from kdcli.losses.cross_entropy import binary_cross_entropy, cross_entropy
from kdcli.losses.decoupled_kd import decoupled_kd_loss
from kdcli.losses.hidden_states import hidden_state_cosine_distance, hidden_state_mse
from kdcli.losses.logits_mse import logits_mse
from kdcli.losses.soft_targets import binary_soft_target_kl, soft_target_kl, standardize_logits
from kdcli.losses.tensor_ops import mean_pool


@pytest.fixture
def student():
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher():
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_there_is_nothing_to_learn_from_oneself(student, temperature):
    assert soft_target_kl(student, student, temperature).abs() < 1e-12


def test_another_teacher_costs_something(student, teacher):
    assert soft_target_kl(student, teacher, 2.0) > 0.1


def test_it_is_t_squared_times_the_divergence_from_the_teacher(student, teacher):
    # In scipy's words, not in torch's: arguments swapped or a mean over classes would show.
    t = 3.0
    p, q = (softmax(logits.numpy() / t, axis=-1) for logits in (teacher, student))
    expected = t**2 * (p * np.log(p / q)).sum(-1).mean()
    assert soft_target_kl(student, teacher, t).item() == pytest.approx(expected)


def test_a_teacher_that_is_certain_does_no_harm():
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4]])
    soft_target_kl(student, teacher, 0.5).backward()
    assert torch.isfinite(student.grad).all()


def test_a_shift_of_all_logits_changes_nothing(student, teacher):
    shifted = soft_target_kl(student + 3, teacher - 7, 2.0)
    torch.testing.assert_close(shifted, soft_target_kl(student, teacher, 2.0))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_the_gradient_is_t_times_the_difference_of_probabilities(student, teacher, temperature):
    student.requires_grad_()
    soft_target_kl(student, teacher, temperature).backward()
    soft = [(x / temperature).softmax(-1) for x in (student.detach(), teacher)]
    expected = temperature * (soft[0] - soft[1]) / len(student)
    torch.testing.assert_close(student.grad, expected)


def test_temperature_doesn_t_change_the_term_s_weight(student, teacher):
    sizes = []
    for temperature in (20.0, 40.0):
        logits = student.clone().requires_grad_()
        soft_target_kl(logits, teacher, temperature).backward()
        sizes.append(logits.grad.norm())
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.05, atol=0)


def test_the_mean_is_over_texts_not_over_classes(student, teacher):
    one_by_one = [
        soft_target_kl(s[None], t[None], 2.0) for s, t in zip(student, teacher, strict=True)
    ]
    torch.testing.assert_close(
        soft_target_kl(student, teacher, 2.0), torch.stack(one_by_one).mean()
    )


def test_gradients_are_right(student, teacher):
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_target_kl(s, teacher, 3.0), student)
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, labels), student)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture
def mask():
    return torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def decoupled(student, teacher, labels, target=1.0, others=1.0, temperature=2.0):
    return decoupled_kd_loss(
        student,
        teacher,
        labels,
        temperature=temperature,
        target_class_weight=target,
        non_target_class_weight=others,
    )


def correlation(student, teacher, classes=1.0, texts=1.0, temperature=2.0):
    return dist_correlation_loss(
        student,
        teacher,
        temperature=temperature,
        inter_class_weight=classes,
        intra_class_weight=texts,
    )


def test_decoupled_and_weighed_by_the_teachers_doubt_it_is_soft_targets(student, teacher, labels):
    # Zhao et al. 2022, equation 6: KL is the target's part plus (1 - p_target) times the others'.
    t = 2.0
    for row in range(len(student)):
        one = (student[row : row + 1], teacher[row : row + 1], labels[row : row + 1])
        doubt = 1 - (one[1] / t).softmax(-1)[0, one[2].item()]
        parts = decoupled(*one, others=0.0) + doubt * decoupled(*one, target=0.0)
        torch.testing.assert_close(parts, soft_target_kl(one[0], one[1], t))


def test_a_shift_and_a_scale_mean_nothing_to_standardized_logits(student, teacher):
    torch.testing.assert_close(standardize_logits(student * 3 + 5), standardize_logits(student))
    torch.testing.assert_close(standardize_logits(teacher).std(-1), torch.ones(6).double())


def test_correlation_is_free_in_what_it_ignores(student, teacher):
    # Over classes: a text's probabilities may be mixed with the uniform ones.
    mixed = (0.5 * (teacher / 2).softmax(-1) + 0.5 / 5).log() * 2
    assert correlation(mixed, teacher, texts=0).abs() < 1e-9
    assert correlation(student, teacher) > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("constant", ["student", "teacher", "both"])
def test_logits_that_are_all_alike_give_finite_losses_and_gradients(
    student, teacher, dtype, constant
):
    if constant != "teacher":
        student = torch.full_like(student, 0.7)
    if constant != "student":
        teacher = torch.full_like(teacher, -0.3)
    student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    mask = torch.ones(2, 3)
    hidden, teacher_hidden = ((0 * x).view(2, 3, 5) for x in (student, teacher))
    values = {
        "correlation": correlation(student, teacher),
        "standardized": soft_target_kl(
            standardize_logits(student), standardize_logits(teacher), 2.0
        ),
        "contrastive": contrastive_loss(0 * student, 0 * teacher, 0.1),
        "hidden_cosine": hidden_state_cosine_distance(hidden, teacher_hidden, mask),
    }
    for name, value in values.items():
        assert value.isfinite(), name
        (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
        assert gradient.isfinite().all(), name


def test_correlation_in_float16_is_that_of_numpy(student, teacher):
    parts = []
    p, q = (softmax(x.numpy() / 2, axis=-1) for x in (student, teacher))
    for a, b in ((p, q), (p.T, q.T)):
        parts.append(np.mean([1 - np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]))
    assert correlation(student, teacher).item() == pytest.approx(4 * sum(parts))
    assert correlation(student.half(), teacher.half()).item() == pytest.approx(
        4 * sum(parts), rel=0.02
    )


def test_of_one_class_there_is_nothing_to_learn():
    student, teacher = random(6, 1).requires_grad_(), random(6, 1, seed=1)
    alone = torch.zeros(6, dtype=torch.long)
    for value in (
        decoupled(student, teacher, alone),
        soft_target_kl(standardize_logits(student), standardize_logits(teacher), 2.0),
        soft_target_kl(student, teacher, 2.0),
        cross_entropy(student, alone),
    ):
        assert value == 0
        assert not torch.autograd.grad(value, student)[0].any()


def test_one_text_has_no_other_to_correlate_with(student, teacher):
    assert torch.isfinite(correlation(student[:1], teacher[:1]))


@pytest.mark.parametrize("term", [hidden_state_mse, hidden_state_cosine_distance])
def test_padding_tells_nothing(term, mask):
    student, teacher = random(3, 4, 8), random(3, 4, 8, seed=1)
    found = term(student, teacher, mask)
    garbage = torch.where(mask[..., None] == 0, 1e3, student)
    torch.testing.assert_close(term(garbage, teacher, mask), found)
    assert term(teacher, teacher, mask).abs() < 1e-12


def test_the_hidden_terms_are_means_over_tokens(mask):
    ones, zeros = torch.ones(3, 4, 8), torch.zeros(3, 4, 8)
    assert hidden_state_mse(2 * ones, zeros, mask) == 4
    assert hidden_state_cosine_distance(ones, -ones, mask) == pytest.approx(2)
    assert hidden_state_cosine_distance(5 * ones, ones, mask) == pytest.approx(0, abs=1e-6)


def attentions(mask, heads, seed):
    scores = random(3, heads, 4, 4, seed=seed).masked_fill(mask[:, None, None, :] == 0, -1e30)
    return scores.softmax(-1)


@pytest.mark.parametrize("heads", [2, 4])
def test_attention_is_compared_where_tokens_are(mask, heads):
    student, teacher = attentions(mask, heads, 0), attentions(mask, 2, 1)
    found = attention_kl(student, teacher, mask)
    assert found > 0.01
    assert attention_kl(teacher, teacher, mask).abs() < 1e-9
    # What padding looks at is no token's.
    changed = student.clone()
    changed[2, :, 1:] = 0.25
    torch.testing.assert_close(attention_kl(changed, teacher, mask), found)


def test_relations_know_no_width_and_no_rotation(mask):
    student, teacher = random(3, 4, 8), random(3, 4, 16, seed=1)
    assert qkv_relation_kl(student, teacher, mask, num_relation_heads=2) > 0.01
    turn = torch.linalg.qr(random(8, 8, seed=2)).Q
    assert qkv_relation_kl(student @ turn, student, mask, num_relation_heads=1).abs() < 1e-9
    garbage = torch.where(mask[..., None] == 0, 1e3, student)
    torch.testing.assert_close(
        qkv_relation_kl(garbage, teacher, mask, num_relation_heads=2),
        qkv_relation_kl(student, teacher, mask, num_relation_heads=2),
    )


def test_a_text_is_found_among_those_of_its_batch():
    teacher = torch.eye(6, dtype=torch.float64)
    assert contrastive_loss(5 * teacher, teacher, 0.05) < 1e-6
    assert contrastive_loss(teacher.roll(1, 0), teacher, 0.05) > 10


def test_a_pooled_state_is_the_mean_of_the_tokens(mask):
    states = random(3, 4, 8)
    torch.testing.assert_close(mean_pool(states, mask)[1], states[1, :3].mean(0))


def test_every_term_has_the_gradient_of_its_value(student, teacher, labels, mask):
    hidden, others = random(3, 4, 4), random(3, 4, 4, seed=1)
    of_logits = [
        logits_mse,
        lambda s, t: soft_target_kl(standardize_logits(s), standardize_logits(t), 2.0),
        lambda s, t: decoupled(s, t, labels, others=8.0),
        lambda s, t: correlation(s, t, classes=2.0),
        lambda s, t: contrastive_loss(s, t, 0.5),
    ]
    of_hidden = [
        hidden_state_mse,
        hidden_state_cosine_distance,
        lambda s, t, m: qkv_relation_kl(s, t, m, num_relation_heads=2),
    ]
    for term in of_logits:
        assert torch.autograd.gradcheck(lambda s, f=term: f(s, teacher), student.requires_grad_())
    for term in of_hidden:
        assert torch.autograd.gradcheck(
            lambda s, f=term: f(s, others, mask), hidden.requires_grad_()
        )
    scores = random(3, 2, 4, 4).requires_grad_()
    told = attentions(mask, 2, 1)
    assert torch.autograd.gradcheck(
        lambda s: attention_kl(s.softmax(-1), told, torch.ones_like(mask)), scores
    )


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_smoothing_is_a_mixture_with_all_classes(student):
    logs = student.log_softmax(-1)
    expected = -(0.8 * logs[range(6), LABELS] + 0.2 * logs.mean(-1)).mean()
    torch.testing.assert_close(cross_entropy(student, LABELS, label_smoothing=0.2), expected)


def test_weights_count_texts_and_a_batch_may_be_cut_up(student):
    weights = torch.tensor([0.5, 1, 2, 1, 1], dtype=torch.float64)
    whole = cross_entropy(student, LABELS, class_weights=weights)
    halves = [
        cross_entropy(student[part], LABELS[part], class_weights=weights)
        for part in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(whole, torch.stack(halves).mean())
    only = cross_entropy(student[2:3], LABELS[2:3])
    torch.testing.assert_close(
        cross_entropy(student[2:3], LABELS[2:3], class_weights=weights), 2 * only
    )


def test_focal_lets_what_is_right_count_less_and_0_is_cross_entropy(student):
    torch.testing.assert_close(
        cross_entropy(student, LABELS, focal_gamma=1e-12),
        cross_entropy(student, LABELS),
    )
    right = torch.eye(5, dtype=torch.float64)[LABELS] * 4
    wrong = -right
    easy, hard = (
        cross_entropy(x, LABELS, focal_gamma=2.0) / cross_entropy(x, LABELS) for x in (right, wrong)
    )
    assert easy < 0.01
    assert hard > 0.9


@pytest.mark.parametrize(
    "settings", [{"label_smoothing": 0.1}, {"focal_gamma": 2.0}, {"focal_gamma": 0.5}]
)
def test_the_gradients_of_hard_labels_are_right(student, settings):
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, LABELS, **settings), student)


def test_certainty_does_focal_no_harm():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    cross_entropy(logits, torch.tensor([0]), focal_gamma=0.5).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_of_each_label_there_is_nothing_to_learn_from_oneself(student, teacher, temperature):
    assert binary_soft_target_kl(student, student, temperature).abs() < 1e-12
    t, s = (torch.sigmoid(x / temperature).numpy() for x in (teacher, student))
    divergence = t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s))
    found = binary_soft_target_kl(student, teacher, temperature).item()
    assert found == pytest.approx(temperature**2 * divergence.mean())


def test_gradients_of_each_label_are_right(student, teacher):
    student.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda s: binary_soft_target_kl(s, teacher, 3.0), student)
    there = (teacher > 0).long()
    weights = torch.rand(2, 5, dtype=torch.float64)
    settings = {"class_weights": weights, "label_smoothing": 0.1, "focal_gamma": 2.0}
    assert check(lambda s: binary_cross_entropy(s, there, **settings), student)
    bare = torch.nn.functional.binary_cross_entropy_with_logits(student, there.double())
    torch.testing.assert_close(binary_cross_entropy(student, there), bare)
