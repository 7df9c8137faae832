"""From a recipe's losses to terms: weights, names, ramps, layers, and what they ask for."""

import pytest
import torch
from pydantic import TypeAdapter
from transformers import (
    BertForSequenceClassification,
)

from kdcli.errors import RecipeError
from kdcli.losses import AnyLoss, CrossEntropy, SoftTargets
from kdcli.losses.base import INTERNAL_OUTPUTS, LayerMapping, ModelOutputs, required_teacher_outputs
from kdcli.losses.combined import CombinedLoss, sum_loss_terms
from kdcli.losses.soft_targets import soft_target_kl
from kdcli.models import layer_pruning, model_io
from kdcli.recipe.training import TrainingConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from kdcli.training import model_outputs
from kdcli.training.label_loss import build_label_loss_options

KINDS = [
    "logits_mse", "decoupled_kd", "correlation", "hidden_mse", "hidden_cosine", "embedding_mse",
    "contrastive", "attention_kl", "attention_relations", "soft_targets",
]  # fmt: skip
LABELS = torch.zeros(6, dtype=torch.long)


def spec(kind, **settings):
    return TypeAdapter(AnyLoss).validate_python({"kind": kind, **settings})


@pytest.fixture
def student():
    return ModelOutputs(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def teacher():
    return ModelOutputs(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))


def test_an_objective_weighs_names_and_leaves_out(student, teacher):
    specs = [
        SoftTargets(weight=0.25, temperature=1),
        SoftTargets(weight=0.5, temperature=4),
        CrossEntropy(weight=0),
    ]
    terms = CombinedLoss(specs)(student, teacher, LABELS)
    assert list(terms) == ["soft_targets_0", "soft_targets_1"]
    expected = 0.5 * soft_target_kl(student.logits, teacher.logits, 4)
    torch.testing.assert_close(terms["soft_targets_1"], expected)
    torch.testing.assert_close(sum_loss_terms(terms), sum(terms.values()))


def test_a_ramp_is_where_the_training_is(student, teacher):
    one = spec("soft_targets", weight={"start": 1, "end": 0}, temperature={"start": 4, "end": 1})
    for progress, weight, temperature in ((0.0, 1.0, 4.0), (0.5, 0.5, 2.5), (1.0, 0.0, 1.0)):
        found = CombinedLoss([one])(student, teacher, LABELS, progress)["soft_targets"]
        expected = weight * soft_target_kl(student.logits, teacher.logits, temperature)
        torch.testing.assert_close(found, expected)


def test_what_is_needed_is_known_before_a_model_is_loaded():
    assert required_teacher_outputs([CrossEntropy(), SoftTargets(weight=0)]) == frozenset()
    assert required_teacher_outputs([CrossEntropy(), SoftTargets()]) == {"logits"}
    assert (
        required_teacher_outputs(
            [spec("hidden_mse"), spec("attention_kl"), spec("attention_relations")]
        )
        == INTERNAL_OUTPUTS
    )


@pytest.fixture(scope="module")
def bert(tiny_teacher):
    return model_io.load_classifier(tiny_teacher)


@pytest.fixture(scope="module")
def batch(tokenizer):
    encoded = tokenizer(["my parcel", "where is my refund for the parcel"], padding=True)
    return {name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}


def told(model, batch):
    asked = frozenset(INTERNAL_OUTPUTS)
    model_outputs.enable_model_outputs(model, asked)
    return model_outputs.forward_with_hidden(model, batch, asked)


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_like_the_teacher_has_nothing_to_learn(bert, batch, kind):
    with torch.no_grad():
        found = told(bert, batch)
        shapes = LayerMapping(32, 32, (0, 1, 2, 3), 4)
        settings = {"relation_heads": 2} if kind == "attention_relations" else {}
        objective = CombinedLoss([spec(kind, **settings)], shapes)
        value = objective(found, found, torch.tensor([0, 1]))[kind].item()
    if kind == "contrastive":
        assert value < torch.tensor(2.0).log()  # better than a guess among two
    else:
        assert value == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_half_the_layers_and_another_width_learns_from_each(bert, batch, kind, config):
    narrow = type(config)(**{**config.to_dict(), "hidden_size": 16, "num_hidden_layers": 2})
    narrow.id2label = bert.config.id2label
    torch.manual_seed(1)
    student = BertForSequenceClassification(narrow).eval()
    settings = {"relation_heads": 2} if kind == "attention_relations" else {}
    objective = CombinedLoss([spec(kind, **settings)], LayerMapping(16, 32, (1, 3), 4))
    with torch.no_grad():
        teacher = told(bert, batch)
    parameters = [*student.parameters(), *objective.parameters()]
    optimiser = torch.optim.Adam(parameters, 1e-2)
    values = []
    for _ in range(8):
        value = sum_loss_terms(objective(told(student, batch), teacher, torch.tensor([0, 1])))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0]


def test_a_cut_student_says_what_the_layers_it_has_said(bert, batch):
    # Kept layers 0 and 1 of the teacher give what they gave there: nothing is left to learn.
    student = layer_pruning.prune_layers(bert, [(0, 1)], "same").eval()
    objective = CombinedLoss([spec("hidden_mse")], LayerMapping(32, 32, (0, 1), 4))
    with torch.no_grad():
        terms = objective(told(student, batch), told(bert, batch), torch.tensor([0, 1]))
    assert terms["hidden_mse"] < 1e-9


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (spec("hidden_mse", teacher_layers=[1, 9]), "no layer 9: the teacher has 4"),
        (spec("attention_kl", teacher_layers=[1]), "teacher_layers names 1 layers"),
        (spec("attention_relations", relation_heads=5), "relation_heads .* student's width of 16"),
        (spec("attention_relations", relation_heads=2, teacher_layer=4), "no layer 4"),
    ],
)
def test_a_layer_that_isn_t_there_is_told(one, says):
    with pytest.raises(RecipeError, match=says):
        CombinedLoss([one], LayerMapping(16, 32, (1, 3), 4))


def test_balanced_every_class_counts_alike():
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    hard = build_label_loss_options(TrainingConfig(class_weights="balanced"), labels.tolist(), 5)
    totals = torch.bincount(labels, weights=hard.class_weights[labels])
    torch.testing.assert_close(totals[[0, 1, 3]].float(), torch.full((3,), 10 / 3))
    logits = torch.zeros(10, 5)
    objective = CombinedLoss([CrossEntropy()], label_options=hard)
    terms = objective(ModelOutputs(logits), ModelOutputs(logits), labels)
    torch.testing.assert_close(terms["cross_entropy"], torch.tensor(5.0).log())


GAPS = torch.tensor([True, False, True, True, False, False])


@pytest.mark.parametrize(
    ("task", "kind", "labels"),
    [
        (SINGLE_LABEL, "cross_entropy", torch.arange(6) % 5),
        (MULTI_LABEL, "cross_entropy", (torch.arange(30).reshape(6, 5) % 2).to(torch.int8)),
        (REGRESSION, "labels_mse", torch.linspace(-100, 100, 6)),
    ],
)
def test_a_text_without_a_label_adds_nothing_to_what_labels_teach(task, kind, labels):
    logits = torch.randn(6, 1 if task is REGRESSION else 5, requires_grad=True)
    some = labels.clone()
    some[~GAPS] = task.missing_label
    hard = build_label_loss_options(TrainingConfig(), some.numpy(), 5, task)
    student = ModelOutputs(logits)

    def value(rows, labels, hard):
        told = ModelOutputs(student.logits[rows])
        return CombinedLoss([spec(kind)], label_options=hard, task=task)(told, told, labels[rows])[
            kind
        ]

    whole = build_label_loss_options(TrainingConfig(), labels.numpy(), 5, task)
    found = value(slice(None), some, hard)
    torch.testing.assert_close(found, value(GAPS, labels, whole) / 2)
    gradient = torch.autograd.grad(found, logits)[0]
    assert gradient[GAPS].any(1).all()
    assert not gradient[~GAPS].any()
    none = value(~GAPS, some, hard)
    assert none == 0
    assert none.requires_grad


def test_of_a_text_without_a_label_the_teacher_s_is_set_against_the_others(student, teacher):
    labels = teacher.logits.argmax(-1)
    some = torch.where(GAPS, labels, -100)
    hard = build_label_loss_options(TrainingConfig(), some.numpy(), 5)
    found = CombinedLoss([spec("decoupled_kd")], label_options=hard)(student, teacher, some)
    torch.testing.assert_close(
        found, CombinedLoss([spec("decoupled_kd")])(student, teacher, labels)
    )


def test_balanced_weights_count_the_labels_that_there_are():
    balanced = TrainingConfig(class_weights="balanced")
    some, whole = torch.tensor([0, 0, 1, -100, -100]), torch.tensor([0, 0, 1])
    found = [build_label_loss_options(balanced, labels.numpy(), 2) for labels in (some, whole)]
    torch.testing.assert_close(found[0].class_weights, found[1].class_weights)
    assert [one.all_labelled for one in found] == [False, True]
