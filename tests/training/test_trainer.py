"""One fit for teacher and student: what it logs is what it does."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.data.tokenization.windows import concat_per_text_columns
from kdcli.errors import KdError, UserError
from kdcli.losses import CrossEntropy, SoftTargets
from kdcli.losses.base import ModelOutputs
from kdcli.losses.combined import CombinedLoss
from kdcli.losses.cross_entropy import cross_entropy
from kdcli.models import model_io
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding_invariance import create_collator
from kdcli.progress import SilentReporter
from kdcli.recipe.training import TrainingConfig
from kdcli.training import teacher_logits
from kdcli.training import train as training

WORDS = ("parcel", "refund", "password", "invoice", "delivery", "size")
RATE = {"learning_rate": 3e-3, "batch_size": 16}


@pytest.fixture
def rows(tokenizer):
    """192 texts; the label is whether the first word is early in WORDS, which can be learnt."""
    random = np.random.default_rng(0)
    words = random.choice(WORDS, size=(192, 4))
    encoded = tokenize_dataset(
        Dataset.from_dict({"text": [" ".join(w) for w in words]}), tokenizer, 32
    )
    early = [int(WORDS.index(w[0]) < 3) for w in words]
    return encoded.add_column("labels", early)


@pytest.fixture
def model(tiny_backbone):
    torch.manual_seed(0)
    return model_io.load_classifier(tiny_backbone, ("late", "early"), allow_new_head=True)


@pytest.fixture
def still(model):
    """The same model without dropout, so that a loss can be computed again."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def fit(
    model,
    tokenizer,
    rows,
    tmp_path,
    terms=None,
    seed=0,
    validation=None,
    reporter=None,
    objective=None,
    **spec,
):
    return training.train_model(
        model,
        tokenizer,
        {"train": rows, "validation": validation or rows.select(range(64))},
        TrainingConfig(**{"epochs": 3, **RATE, **spec}),
        objective or CombinedLoss(terms or [CrossEntropy()]),
        run=training.TrainingContext(
            seed, tmp_path / "scratch", tmp_path / "log.jsonl", reporter or SilentReporter()
        ),
    )


def test_it_learns_and_its_last_validation_loss_is_the_models(model, tokenizer, rows, tmp_path):
    history = fit(model, tokenizer, rows, tmp_path)
    assert history[-1].training_loss < history[0].training_loss
    assert [row.epoch for row in history] == [1, 2, 3]
    assert [row.step for row in history] == [12, 24, 36]
    found = predict_logits(model, create_collator(model, tokenizer), rows.select(range(64)), 16)
    labels = torch.tensor(rows["labels"][:64])
    again = cross_entropy(torch.from_numpy(found), labels).item()
    assert history[-1].validation_loss == pytest.approx(again, abs=1e-4)
    assert history[-1].validation_metrics["accuracy"] == (found.argmax(-1) == labels.numpy()).mean()


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (192, {}),
        (100, {}),
        (100, {"gradient_accumulation_steps": 2}),
        (90, {"gradient_accumulation_steps": 4}),
    ],
)
def test_terms_add_up_and_validation_is_a_mean_over_texts(
    still, tokenizer, rows, tmp_path, count, batches
):
    told = np.random.default_rng(1).normal(size=(192, 2)).astype(np.float32)
    rows = rows.add_column("teacher_logits", told.tolist())
    terms = [SoftTargets(weight=0.5, temperature=2), CrossEntropy(weight=0.5)]
    # 70 texts leave the last batch of 16 short.
    seen = rows.select(range(70))
    row = fit(
        still, tokenizer, rows.select(range(count)), tmp_path, terms,
        validation=seen, epochs=1, **batches,
    )[0]  # fmt: skip
    assert sum(row.training_terms.values()) == pytest.approx(row.training_loss, abs=1e-4)
    assert sum(row.validation_terms.values()) == pytest.approx(row.validation_loss, abs=1e-4)
    found = torch.from_numpy(predict_logits(still, create_collator(still, tokenizer), seen, 16))
    labels, told = torch.tensor(seen["labels"]), ModelOutputs(torch.from_numpy(told[:70]))
    for name, term in CombinedLoss(terms)(ModelOutputs(found), told, labels).items():
        assert row.validation_terms[name] == pytest.approx(term.item(), abs=1e-5), name


def test_each_term_is_logged_apart_and_they_add_up(model, tokenizer, rows, tmp_path):
    rows = rows.add_column(
        "teacher_logits", np.random.default_rng(1).normal(size=(192, 2)).tolist()
    )
    terms = [SoftTargets(weight=0.5, temperature=2), CrossEntropy(weight=0.5)]
    row = fit(model, tokenizer, rows, tmp_path, terms, epochs=1)[0]
    assert set(row.training_terms) == {"soft_targets", "cross_entropy"}
    assert sum(row.training_terms.values()) == pytest.approx(row.training_loss, abs=1e-4)
    assert sum(row.validation_terms.values()) == pytest.approx(row.validation_loss, abs=1e-4)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert any("loss/soft_targets" in line for line in logged)


def test_the_student_learns_what_only_the_teacher_tells(model, tokenizer, rows, tmp_path):
    hidden = np.array(rows["labels"])
    told = np.where(hidden[:, None] == np.arange(2), 4.0, -4.0)
    rows = rows.remove_columns("labels").add_column("labels", [0] * len(rows))
    rows = rows.add_column("teacher_logits", told.tolist())
    fit(model, tokenizer, rows, tmp_path, [SoftTargets()], epochs=12)
    found = predict_logits(model, create_collator(model, tokenizer), rows, 16).argmax(-1)
    assert (found == hidden).mean() > 0.9


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_doesn_t_change_the_loss(still, tokenizer, rows, tmp_path, accumulation):
    start = {name: tensor.clone() for name, tensor in still.state_dict().items()}
    whole = fit(still, tokenizer, rows, tmp_path)
    still.load_state_dict(start)
    parts = fit(
        still, tokenizer, rows, tmp_path,
        batch_size=16 // accumulation, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    for one, other in zip(whole, parts, strict=True):
        assert other.step == one.step
        assert other.training_loss == pytest.approx(one.training_loss, abs=1e-4)
        assert other.validation_loss == pytest.approx(one.validation_loss, abs=1e-4)


def test_only_the_rows_that_occur_are_trained_and_the_result_is_the_same(
    still, tokenizer, rows, tmp_path
):
    start = {name: tensor.clone() for name, tensor in still.state_dict().items()}
    fit(still, tokenizer, rows, tmp_path)
    small = {name: tensor.clone() for name, tensor in still.state_dict().items()}
    still.load_state_dict(start)
    # So little decay that it changes nothing, and the whole table is trained.
    fit(still, tokenizer, rows, tmp_path, weight_decay=1e-30)
    for name, tensor in still.state_dict().items():
        torch.testing.assert_close(small[name], tensor, atol=1e-5, rtol=1e-4)
    table = "bert.embeddings.word_embeddings.weight"
    assert small[table].shape == start[table].shape
    used = sorted({i for ids in rows["input_ids"] for i in ids})
    unused = [i for i in range(len(start[table])) if i not in used]
    assert torch.equal(small[table][unused], start[table][unused])
    assert not torch.equal(small[table][used], start[table][used])


def test_the_same_seed_gives_the_same_bits_and_another_others(
    tiny_backbone, tokenizer, rows, tmp_path
):
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = model_io.load_classifier(tiny_backbone, ("late", "early"), allow_new_head=True)
        fit(model, tokenizer, rows, tmp_path, epochs=1, seed=seed)
        heads.append(model.classifier.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_best_epoch_is_kept_where_that_is_asked(model, tokenizer, rows, tmp_path):
    history = fit(
        model, tokenizer, rows, tmp_path, keep_checkpoint="best", epochs=6, learning_rate=3e-2
    )
    found = predict_logits(
        model, create_collator(model, tokenizer), rows.select(range(64)), 16
    ).argmax(-1)
    kept = (found == np.array(rows["labels"][:64])).mean()
    assert kept == max(row.validation_metrics["accuracy"] for row in history)


def test_a_loss_that_is_no_number_stops_the_run(model, tokenizer, rows, tmp_path):
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    said = r"loss is nan at step 1 \(cross_entropy nan\), on rows \d+(, \d+){15} of"
    with pytest.raises(KdError, match=said):
        fit(model, tokenizer, rows, tmp_path)


def test_weights_that_go_wrong_with_the_last_step_are_told_as_well(
    model, tokenizer, rows, tmp_path
):
    # No other step follows whose loss would tell.
    with pytest.raises(UserError, match=r"on validation is nan after step 1 \(cross_entropy"):
        fit(model, tokenizer, rows, tmp_path, epochs=1, batch_size=192, learning_rate=1e38)


def test_the_teachers_outputs_come_back_as_they_were_written(rows, tmp_path):
    told = np.random.default_rng(2).normal(size=(192, 7)).astype(np.float32)
    teacher_logits.write_teacher_logits({"train": told}, tmp_path / "outputs")
    read = teacher_logits.load_teacher_logits(tmp_path / "outputs")["train"]
    joined = concat_per_text_columns(rows, read)
    assert np.array_equal(np.array(joined["teacher_logits"], dtype=np.float32), told)
    assert joined["labels"] == rows["labels"]
    assert read.cache_files, "the column is on disk, not in memory"


def test_steps_are_counted_as_the_trainer_counts_them():
    assert TrainingConfig(batch_size=48, epochs=5).count_optimizer_steps(15_250) == 1590
    assert TrainingConfig(batch_size=16, epochs=3).count_optimizer_steps(192) == 36
    assert (
        TrainingConfig(batch_size=5, gradient_accumulation_steps=4, epochs=1).count_optimizer_steps(
            192
        )
        == 10
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"batch_size": 16},
        {"batch_size": 7, "gradient_accumulation_steps": 3},
        {"batch_size": 64, "gradient_accumulation_steps": 8},
    ],
)
def test_the_forecast_of_steps_is_what_the_trainer_takes(model, tokenizer, rows, tmp_path, spec):
    rows = rows.select(range(100))
    history = fit(model, tokenizer, rows, tmp_path, epochs=2, **spec)
    assert history[-1].step == TrainingConfig(epochs=2, **spec).count_optimizer_steps(100)


def test_best_is_the_epoch_that_a_shorter_run_ends_with(tiny_backbone, tokenizer, rows, tmp_path):
    def trained(epochs, keep, folder):
        torch.manual_seed(0)
        fresh = model_io.load_classifier(tiny_backbone, ("late", "early"), allow_new_head=True)
        # Rates that don't fall, so that the shorter run is a part of the longer one.
        spec = {
            "epochs": epochs,
            "keep_checkpoint": keep,
            "schedule": "constant",
            "learning_rate": 1e-2,
        }
        return fresh, fit(fresh, tokenizer, rows, tmp_path / folder, **spec)

    best, history = trained(5, "best", "long")
    accuracies = [row.validation_metrics["accuracy"] for row in history]
    epoch = accuracies.index(max(accuracies)) + 1
    assert epoch < 5, "the last epoch is the best: nothing is shown"
    other, _ = trained(epoch, "last", "short")
    for name, tensor in best.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_run_that_fails_leaves_the_embeddings_whole(model, tokenizer, rows, tmp_path):
    table = model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        model.classifier.bias[0] = float("inf")
    with pytest.raises(KdError):
        fit(model, tokenizer, rows, tmp_path)
    assert torch.equal(model.get_input_embeddings().weight, table)


def test_a_loss_that_no_weight_bears_on_is_told(model, tokenizer, rows, tmp_path):
    model.requires_grad_(False)
    with pytest.raises(UserError, match=r"cross_entropy.*has no gradient"):
        fit(model, tokenizer, rows, tmp_path)


def test_frozen_layers_stay_as_they_are(model, tokenizer, rows, tmp_path):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(model, tokenizer, rows, tmp_path, freeze_layers=1, dropout=0.0, epochs=1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not [name for name in moved if "embeddings" in name or ".layer.0." in name]
    assert [name for name in moved if ".layer.1." in name]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_each_row_counts_alike_in_a_step_and_in_the_logged_loss(
    still, tokenizer, rows, tmp_path, accumulation
):
    rows = rows.select([*range(192), *range(48)])
    batch = create_collator(still, tokenizer)(rows.__getitems__(list(range(240))))
    loss = torch.nn.functional.cross_entropy(still(**batch).logits, batch["labels"])
    (expected,) = torch.autograd.grad(loss, still.classifier.weight)
    gradients = []
    still.classifier.weight.register_hook(gradients.append)
    (row,) = fit(
        still, tokenizer, rows, tmp_path,
        epochs=1, batch_size=100, gradient_accumulation_steps=accumulation, learning_rate=1e-12,
    )  # fmt: skip
    assert len(gradients) == 3
    assert row.training_loss == pytest.approx(loss.item(), rel=1e-5)
    if accumulation == 3:
        torch.testing.assert_close(sum(gradients), expected, rtol=1e-4, atol=1e-7)


def test_ramp_goes_from_its_start_at_the_first_step_to_its_end_at_the_last(
    model, tokenizer, rows, tmp_path, monkeypatch
):
    seen = {True: [], False: []}
    objective = CombinedLoss([CrossEntropy()])
    forward = objective.forward

    def noted(student, teacher, labels, progress):
        seen[model.training].append(progress)
        return forward(student, teacher, labels, progress)

    monkeypatch.setattr(objective, "forward", noted)
    fit(
        model, tokenizer, rows, tmp_path,
        objective=objective, epochs=2, batch_size=32, validation=rows.select(range(32)),
    )  # fmt: skip
    assert seen[True] == pytest.approx(np.linspace(0, 1, 12))
    # An epoch is measured with the settings of its last step.
    assert seen[False] == [seen[True][5], seen[True][11]] == [pytest.approx(5 / 11), 1]


class Weights(SilentReporter):
    """Remembers a model's weights after each step."""

    def __init__(self, model):
        self.model, self.steps = model, []

    def advance(self, step, steps, figures=None):
        if figures is None:
            self.steps.append({n: p.detach().clone() for n, p in self.model.named_parameters()})


@pytest.mark.parametrize(
    ("average", "epochs", "last", "every"),
    [(0.5, 1, 5, 1), (0.5, 2, 10, 2), (0.5, 5, 25, 5), (0.01, 1, 2, 1)],
)
def test_the_outcome_is_the_mean_of_the_last_steps_and_is_what_was_measured(
    model, tokenizer, rows, tmp_path, average, epochs, last, every
):
    seen = Weights(model)
    history = fit(
        model, tokenizer, rows, tmp_path,
        reporter=seen, weight_averaging_ratio=average, epochs=epochs, batch_size=20,
    )  # fmt: skip
    assert len(seen.steps) == 10 * epochs
    taken = seen.steps[-last:][::-1][::every]
    for name, weight in model.named_parameters():
        if "word_embeddings" in name:  # while it trains, the table holds only the rows in use
            continue
        mean = torch.stack([weights[name] for weights in taken]).mean(0)
        torch.testing.assert_close(weight, mean)
    # The table's last row speaks of the mean.
    found = predict_logits(model, create_collator(model, tokenizer), rows.select(range(64)), 16)
    labels = torch.tensor(rows["labels"][:64])
    measured = cross_entropy(torch.from_numpy(found), labels).item()
    assert history[-1].validation_loss == pytest.approx(measured, abs=1e-4)


class Epochs(SilentReporter):
    """Remembers the rows of the epochs."""

    def __init__(self):
        self.rows = []

    def epoch(self, epoch, step, metrics, seconds):
        self.rows.append((epoch, step, metrics))
        assert seconds > 0


def test_each_epoch_is_reported_with_the_figures_of_the_history(model, tokenizer, rows, tmp_path):
    seen = Epochs()
    history = fit(model, tokenizer, rows, tmp_path, reporter=seen, epochs=2, batch_size=20)
    assert [(epoch, step) for epoch, step, _ in seen.rows] == [
        (row.epoch, row.step) for row in history
    ]
    for (_, _, metrics), row in zip(seen.rows, history, strict=True):
        assert metrics["loss"] == pytest.approx(row.training_loss)
        assert metrics["validation loss"] == pytest.approx(row.validation_loss)
        assert metrics["accuracy"] == row.validation_metrics["accuracy"]
