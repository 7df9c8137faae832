"""Passes on an accelerator that isn't there: no pass forgets it, and no figure changes."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_accelerator import DEVICE, DeviceMismatchError, fake_accelerator
from transformers import BertForMaskedLM

import kdcli
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import UsageError
from kdcli.evaluation.predict.penultimate_features import predict_logits_and_features
from kdcli.models import batch_inference, device, layer_importance, layer_stacks, model_io
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.mask_filling import fill_masked_words
from kdcli.models.padding_invariance import create_collator
from kdcli.models.torch_classifier import TorchClassifier
from kdcli.training.hidden_state_cache import HiddenStateCache, write_hidden_state_cache

NUM_ROWS = 20


@pytest.fixture
def teacher(tiny_teacher):
    model = model_io.load_classifier(tiny_teacher)
    tokenizer = model_io.load_tokenizer(tiny_teacher)
    return model, tokenizer, create_collator(model, tokenizer)


@pytest.fixture
def texts(help_desk):
    return help_desk["test"].select(range(NUM_ROWS))


@pytest.fixture
def rows(teacher, texts):
    return tokenize_dataset(texts, teacher[1], 64)


def logits(teacher, rows, **_):
    model, _, collator = teacher
    return [predict_logits(model, collator, rows, 8)]


def logits_and_features(teacher, rows, **_):
    model, _, collator = teacher
    return predict_logits_and_features(model, collator, rows, 8)


def hidden_states(teacher, rows, tmp_path, **_):
    model, _, collator = teacher
    folder = tmp_path / f"states-{len([*tmp_path.iterdir()])}"
    folder.mkdir()
    write_hidden_state_cache(model, collator, rows, [0, 2], folder)
    (file,) = folder.iterdir()
    counts = np.array([len(ids) for ids in rows["input_ids"]])
    return [HiddenStateCache(file, counts, [0, 2], model.config.hidden_size).hidden_states]


def filled_words(config, tokenizer, **_):
    torch.manual_seed(0)
    model = BertForMaskedLM(config).eval()
    masked = [["where", None, "my", "parcel"], [None, None], ["hello"]] * 5
    return [fill_masked_words(model, tokenizer, masked, 0, lambda done, total: None)]


def kept_layers(teacher, rows, **_):
    model, _, _ = teacher
    (stack,) = layer_stacks.find_layer_stacks(model)
    ids = [torch.tensor([row["input_ids"]]) for row in rows.select(range(3))]
    batches = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]
    return [
        layer_importance.select_layers_greedily(model, stack, 2, batches, use_logits=head)
        for head in (True, False)
    ]


def embeddings(tiny_teacher, texts, **_):
    from kdcli.recipe.black_box_teachers import EmbeddingTeacherConfig
    from kdcli.teachers.embedding_classifier import _TextEmbedder

    context = SimpleNamespace(
        allow_pickle=False,
        data_config=SimpleNamespace(max_length=64),
        dataset_splits=SimpleNamespace(splits={"train": texts}),
    )
    return [_TextEmbedder(EmbeddingTeacherConfig(model=str(tiny_teacher)), context)(texts)]


def predictions(tiny_teacher, texts, **_):
    return [TorchClassifier(tiny_teacher).predict_logits(texts["text"])]


PASSES = (
    logits,
    logits_and_features,
    hidden_states,
    filled_words,
    kept_layers,
    embeddings,
    predictions,
)


@pytest.mark.parametrize("run", PASSES, ids=lambda run: run.__name__)
def test_a_pass_runs_there_and_gives_the_same(
    run, monkeypatch, teacher, tiny_teacher, rows, texts, config, tokenizer, tmp_path
):
    given = {
        "teacher": teacher,
        "tiny_teacher": tiny_teacher,
        "rows": rows,
        "texts": texts,
        "config": config,
        "tokenizer": tokenizer,
        "tmp_path": tmp_path,
    }
    expected = run(**given)
    with fake_accelerator(monkeypatch) as accelerator:
        found = run(**given)
    assert accelerator.operations > 100
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, other, atol=1e-5)
        else:
            assert one == other
    # It is back where it was.
    assert {parameter.device.type for parameter in teacher[0].parameters()} == {"cpu"}


def test_weights_are_moved_outside_of_inference_mode(monkeypatch, teacher, rows):
    model, _, collator = teacher
    monkeypatch.setattr(device, "inference_device", lambda: DEVICE)
    moves = []

    def move(self, target):
        moves.append((target, torch.is_inference_mode_enabled()))
        return self

    monkeypatch.setattr(type(model), "to", move)
    batch_inference.predict_batches(
        model, collator, rows, 8, forward=lambda batch: [torch.zeros(len(batch["input_ids"]), 2)]
    )
    assert moves == [(DEVICE, False), (torch.device("cpu"), False)]


def test_a_pass_that_forgets_the_device_is_noticed(monkeypatch, teacher, rows):
    model, _, collator = teacher
    with fake_accelerator(monkeypatch), pytest.raises(DeviceMismatchError):
        batch_inference.predict_batches(
            model,
            collator,
            rows,
            8,
            forward=lambda batch: [model(input_ids=torch.ones(8, 3, dtype=torch.long)).logits],
        )


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_a_batch_that_does_not_fit_is_halved(teacher, rows, limit, caplog):
    model, _, collator = teacher
    expected = predict_logits(model, collator, rows, 16)
    sizes, progress = [], []

    def forward(batch):
        size = len(batch["input_ids"])
        if size > limit:
            raise torch.OutOfMemoryError
        sizes.append(size)
        return [model(**batch).logits]

    with caplog.at_level(logging.WARNING):
        (found,) = batch_inference.predict_batches(
            model, collator, rows, 16, forward=forward, advance=lambda *done: progress.append(done)
        )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sum(sizes) == NUM_ROWS
    assert progress[-1] == (NUM_ROWS, NUM_ROWS)
    assert "Out of memory" in caplog.text


def test_a_text_that_does_not_fit_alone_is_an_error(teacher, rows):
    model, _, collator = teacher

    def forward(batch):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        batch_inference.predict_batches(model, collator, rows, 16, forward=forward)


@pytest.fixture
def without_choice(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "tpu", "cpu:1", ""])
def test_a_device_that_is_not_there_is_refused(name, without_choice, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name == "cuda:7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError):
        kdcli.use_device(name)


def test_the_cpu_can_be_chosen(without_choice):
    kdcli.use_device("cpu")
    assert device.inference_device() == torch.device("cpu")
    assert os.environ["ACCELERATE_USE_CPU"] == "true"


def test_under_a_launcher_the_launcher_chooses(without_choice, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError):
        kdcli.use_device("cpu")
