"""`kdcli.DistillationTrainer` in one's own code, without a recipe."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import DataCollatorWithPadding, TrainingArguments

import kdcli
from kdcli.errors import UsageError
from kdcli.models import layer_pruning, model_io

TEXTS = ["my parcel is late", "where is my refund", "i forgot the password", "the invoice", "size?"]


@pytest.fixture
def teacher(tiny_teacher):
    teacher = model_io.load_classifier(tiny_teacher).eval()
    with torch.no_grad():
        teacher.classifier.weight.mul_(50)  # classes that differ
    return teacher


@pytest.fixture
def student(teacher):
    """A student of half the layers, without dropout."""
    student = layer_pruning.prune_layers(teacher, [(0, 2)], "same")
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        student.classifier.weight.mul_(0.5)
    return student


@pytest.fixture
def dataset(tokenizer):
    # A column of text and the tokenizer's mask, as `dataset.map(tokenizer)` leaves them.
    texts = Dataset.from_dict({"text": TEXTS * 2, "label": [0, 1, 2, 0, 1] * 2})
    return texts.map(lambda row: tokenizer(row["text"]))


def training_args(folder, **changes):
    return TrainingArguments(
        output_dir=str(folder), report_to="none", disable_tqdm=True, save_strategy="no",
        **{"per_device_train_batch_size": 10, "num_train_epochs": 1, "max_grad_norm": 0, **changes},
    )  # fmt: skip


def batch_of(dataset, tokenizer):
    columns = dataset.select_columns(["input_ids", "attention_mask"])
    return DataCollatorWithPadding(tokenizer)([columns[i] for i in range(len(columns))])


def soft_target_loss(student, teacher, batch, temperature):
    """Distillation by hand, after Hinton et al. (2015)."""
    logits = student(**batch).logits
    with torch.no_grad():
        targets = (teacher(**batch).logits / temperature).softmax(-1)
    log_probabilities = (logits / temperature).log_softmax(-1)
    return F.kl_div(log_probabilities, targets, reduction="batchmean") * temperature**2


def test_one_step_equals_a_loop_of_plain_torch(student, teacher, dataset, tokenizer, tmp_path):
    batch = batch_of(dataset, tokenizer)
    by_hand = model_copy(student)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    expected = soft_target_loss(by_hand, teacher, batch, 2.0)
    expected.backward()
    optimizer.step()

    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    trainer = kdcli.DistillationTrainer(
        model=student,
        teacher=teacher,
        losses=[kdcli.losses.SoftTargets(temperature=2.0)],
        args=training_args(
            tmp_path, optim="sgd", learning_rate=0.1, lr_scheduler_type="constant",
            logging_steps=1,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()

    (entry,) = [row for row in trainer.state.log_history if "loss" in row]
    assert entry["loss/soft_targets"] == pytest.approx(expected.item(), rel=1e-5)
    parameters = dict(by_hand.named_parameters())
    assert any(not torch.equal(p, before[name]) for name, p in student.named_parameters())
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.cpu(), parameters[name], rtol=1e-4, atol=1e-6)


def model_copy(model):
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def test_evaluation_gives_each_loss_and_the_metric(student, teacher, dataset, tokenizer, tmp_path):
    trainer = kdcli.DistillationTrainer(
        model=student,
        teacher=teacher,
        args=training_args(tmp_path, eval_strategy="epoch", num_train_epochs=2),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(7)),
        processing_class=tokenizer,
    )
    trainer.train()
    metrics = trainer.evaluate()
    batch = batch_of(dataset.select(range(7)), tokenizer)
    with torch.no_grad():
        expected = soft_target_loss(student.cpu().eval(), teacher.cpu(), batch, 2.0)
    assert metrics["eval_loss/soft_targets"] == pytest.approx(0.5 * expected.item(), rel=1e-4)
    assert {"eval_loss/cross_entropy", "eval_accuracy"} <= set(metrics)
    assert len([row for row in trainer.state.log_history if "eval_loss" in row]) == 3


def test_logits_in_a_column_replace_the_teacher(student, teacher, dataset, tokenizer, tmp_path):
    with torch.no_grad():
        logits = teacher(**batch_of(dataset, tokenizer)).logits
    arguments = {"losses": [kdcli.losses.SoftTargets()], "args": training_args(tmp_path)}
    arguments["processing_class"] = tokenizer
    values = []
    for teacher_argument, rows in (
        (teacher, dataset),
        (None, dataset.add_column("teacher_logits", logits.tolist())),
    ):
        trainer = kdcli.DistillationTrainer(
            model=student, teacher=teacher_argument, train_dataset=rows, **arguments
        )
        values.append(trainer.evaluate(trainer.train_dataset)["eval_loss"])
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    with pytest.raises(UsageError, match="teacher_logits"):
        kdcli.DistillationTrainer(model=student, train_dataset=dataset, **arguments)


@pytest.mark.parametrize("hidden_size", [16, 32])
def test_losses_of_hidden_states_train(teacher, dataset, tokenizer, tmp_path, config, hidden_size):
    narrow = type(config)(
        **{**config.to_dict(), "hidden_size": hidden_size, "num_hidden_layers": 2}
    )
    narrow.id2label = teacher.config.id2label
    torch.manual_seed(0)
    student = type(teacher)(narrow)
    trainer = kdcli.DistillationTrainer(
        model=student,
        teacher=teacher,
        losses=[kdcli.losses.HiddenMSE(), kdcli.losses.AttentionRelations(relation_heads=2)],
        args=training_args(tmp_path, learning_rate=1e-2, num_train_epochs=5, logging_steps=1),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    # The projections are trained with the student, and no part of it afterwards.
    assert not [name for name in student.state_dict() if "projection" in name]
