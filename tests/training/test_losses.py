"""The losses, held by their mathematics."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from kdcli.recipe.schema import CrossEntropySpec, SoftTargetsSpec
from kdcli.training import losses


@pytest.fixture
def student():
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher():
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_there_is_nothing_to_learn_from_oneself(student, temperature):
    assert losses.soft_targets(student, student, temperature).abs() < 1e-12


def test_another_teacher_costs_something(student, teacher):
    assert losses.soft_targets(student, teacher, 2.0) > 0.1


def test_it_is_t_squared_times_the_divergence_from_the_teacher(student, teacher):
    # In scipy's words, not in torch's: arguments swapped or a mean over classes would show.
    t = 3.0
    p, q = (softmax(logits.numpy() / t, axis=-1) for logits in (teacher, student))
    expected = t**2 * (p * np.log(p / q)).sum(-1).mean()
    assert losses.soft_targets(student, teacher, t).item() == pytest.approx(expected)


def test_a_teacher_that_is_certain_does_no_harm():
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4]])
    losses.soft_targets(student, teacher, 0.5).backward()
    assert torch.isfinite(student.grad).all()


def test_a_shift_of_all_logits_changes_nothing(student, teacher):
    shifted = losses.soft_targets(student + 3, teacher - 7, 2.0)
    torch.testing.assert_close(shifted, losses.soft_targets(student, teacher, 2.0))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_the_gradient_is_t_times_the_difference_of_probabilities(student, teacher, temperature):
    student.requires_grad_()
    losses.soft_targets(student, teacher, temperature).backward()
    soft = [(x / temperature).softmax(-1) for x in (student.detach(), teacher)]
    expected = temperature * (soft[0] - soft[1]) / len(student)
    torch.testing.assert_close(student.grad, expected)


def test_temperature_doesn_t_change_the_term_s_weight(student, teacher):
    sizes = []
    for temperature in (20.0, 40.0):
        logits = student.clone().requires_grad_()
        losses.soft_targets(logits, teacher, temperature).backward()
        sizes.append(logits.grad.norm())
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.05, atol=0)


def test_the_mean_is_over_texts_not_over_classes(student, teacher):
    one_by_one = [
        losses.soft_targets(s[None], t[None], 2.0) for s, t in zip(student, teacher, strict=True)
    ]
    torch.testing.assert_close(
        losses.soft_targets(student, teacher, 2.0), torch.stack(one_by_one).mean()
    )


def test_gradients_are_right(student, teacher):
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: losses.soft_targets(s, teacher, 3.0), student)
    assert torch.autograd.gradcheck(lambda s: losses.cross_entropy(s, labels), student)


def test_an_objective_weighs_names_and_leaves_out(student, teacher):
    batch = {"labels": torch.zeros(6, dtype=torch.long), "teacher_logits": teacher}
    specs = [
        SoftTargetsSpec(weight=0.25, temperature=1),
        SoftTargetsSpec(weight=0.5, temperature=4),
        CrossEntropySpec(weight=0),
    ]
    terms = losses.objective(specs)(student, batch)
    assert list(terms) == ["soft_targets_0", "soft_targets_1"]
    torch.testing.assert_close(
        terms["soft_targets_1"], 0.5 * losses.soft_targets(student, teacher, 4)
    )
    torch.testing.assert_close(losses.total(terms), sum(terms.values()))


def test_a_term_given_twice_counts_twice(student, teacher):
    spec = SoftTargetsSpec(weight=0.5)
    terms = losses.objective([spec, spec])(student, {"teacher_logits": teacher})
    torch.testing.assert_close(losses.total(terms), losses.soft_targets(student, teacher, 2.0))


def test_a_term_without_weight_asks_nothing_of_the_teacher(student):
    specs = [SoftTargetsSpec(weight=0), CrossEntropySpec()]
    assert not losses.needs_teacher(specs)
    assert losses.needs_teacher([SoftTargetsSpec()])
    terms = losses.objective(specs)(student, {"labels": torch.zeros(6, dtype=torch.long)})
    assert list(terms) == ["cross_entropy"]
