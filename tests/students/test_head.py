"""Students that are a frozen encoder and a linear layer: fitted, saved, and run as any model."""

import copy

import numpy as np
import pytest
import torch
from datasets import load_dataset
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

import kdcli
from kdcli.errors import RecipeError
from kdcli.models import model_io
from kdcli.models.encoder_head import EncoderHeadForSequenceClassification, find_pooling

_LABELS_ONLY = {"losses": [{"kind": "cross_entropy"}]}


@pytest.fixture(scope="module")
def recipe(small_data, tiny_teacher):
    return {
        "name": "head",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_teacher)},
        "student": {"family": "head", "options": {"C": 10}},
        "evaluate": {"latency_texts": 2, "baselines": []},
    }


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    changed = {**recipe, "distill": _LABELS_ONLY}
    return kdcli.distill(changed, output=tmp_path_factory.mktemp("head") / "run")


@pytest.fixture(scope="module")
def texts(small_data):
    splits = load_dataset(str(small_data))
    return {split: (rows["text"], np.array(rows["intent"])) for split, rows in splits.items()}


def embed_one_at_a_time(folder, texts, pooling="mean"):
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    rows = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state[0]
            pooled = hidden[0] if pooling == "cls" else hidden.mean(0)
            rows.append((pooled / pooled.norm()).numpy())
    return np.stack(rows)


def test_student_on_labels_is_scikit_learns_head(run, tiny_teacher, texts):
    plain = LogisticRegression(C=10, max_iter=2000, tol=1e-8)
    plain.fit(embed_one_at_a_time(tiny_teacher, texts["train"][0]), texts["train"][1])
    classifier = kdcli.load(run.path)
    order = [classifier.labels.index(str(label)) for label in plain.classes_]
    logits = classifier.predict_logits(texts["test"][0])[:, order]
    expected = plain.decision_function(embed_one_at_a_time(tiny_teacher, texts["test"][0]))
    expected -= expected.mean(1, keepdims=True)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), expected, atol=5e-3)


def test_run_evaluates_the_student_and_leaves_its_encoder_alone(run, tiny_teacher, texts):
    classifier = kdcli.load(run.path)
    predicted = [prediction.label for prediction in classifier.predict(texts["test"][0])]
    right = np.mean([p == label for p, label in zip(predicted, texts["test"][1], strict=True)])
    assert run.metrics["student"]["test"]["accuracy"] == pytest.approx(right)
    student = model_io.load_classifier(run.path / "student")
    encoder = AutoModel.from_pretrained(tiny_teacher).state_dict()
    for name, tensor in student.encoder.state_dict().items():
        torch.testing.assert_close(tensor, encoder[name])
    card = (run.path / "student" / "README.md").read_text(encoding="utf-8")
    assert "kdcli.load" in card and "import pipeline" not in card and "num_epochs" not in card
    assert "PyTorch" in card and (run.path / "student" / "kd.json").is_file()


def test_answer_does_not_depend_on_the_other_texts(run, texts):
    some = [*texts["test"][0][:20], "x " * 300]
    classifier = kdcli.load(run.path)
    alone = np.concatenate([classifier.predict_logits([text]) for text in some])
    np.testing.assert_allclose(classifier.predict_logits(some), alone, atol=1e-4)


def test_first_token_is_found_behind_padding(tiny_teacher, tmp_path):
    model = EncoderHeadForSequenceClassification(head_config(tiny_teacher, pooling="cls")).eval()
    ids, mask = torch.tensor([[2, 7, 9, 3]]), torch.tensor([[1, 1, 1, 1]])
    padded, padded_mask = (torch.cat([torch.zeros(1, 2, dtype=int), x], 1) for x in (ids, mask))
    positions = torch.tensor([[0, 0, 0, 1, 2, 3]])
    forward = model.encoder.forward
    model.encoder.forward = lambda **inputs: forward(**inputs, position_ids=positions)
    behind = model.embed(input_ids=padded, attention_mask=padded_mask)
    model.encoder.forward = forward
    torch.testing.assert_close(behind, model.embed(input_ids=ids, attention_mask=mask))


def head_config(folder, **options):
    from kdcli.models.encoder_head import EncoderHeadConfig

    return EncoderHeadConfig(text_config=model_io.load_config(folder), num_labels=3, **options)


def test_pooling_is_read_from_a_sentence_transformers_folder(tmp_path):
    assert find_pooling(tmp_path) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert find_pooling(tmp_path) == "cls"


def test_soft_targets_of_windows_and_a_named_encoder(recipe, tiny_teacher, texts, tmp_path):
    changed = copy.deepcopy(recipe)
    changed["distill"] = {"losses": [{"kind": "soft_targets", "temperature": 1.0}]}
    changed["data"] |= {"truncation": "windows", "max_length": 8}
    changed["student"] |= {"model": str(tiny_teacher), "options": {"pooling": "cls", "C": 10}}
    run = kdcli.distill(changed, output=tmp_path / "run")
    classifier = kdcli.load(run.path)
    predicted = [prediction.label for prediction in classifier.predict(texts["test"][0])]
    right = np.mean([p == label for p, label in zip(predicted, texts["test"][1], strict=True)])
    assert run.metrics["student"]["test"]["accuracy"] == pytest.approx(right)


def test_export_gives_the_same_logits(run, texts, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    kdcli.export(run.path / "student", output=tmp_path / "exported", precision="float32")
    exported = kdcli.load(tmp_path / "exported", runtime="onnx")
    some = texts["test"][0][:10]
    expected = kdcli.load(run.path).predict_logits(some)
    np.testing.assert_allclose(exported.predict_logits(some), expected, atol=1e-4)


def test_finished_student_is_a_teacher_like_any(run, recipe, tmp_path):
    changed = {**recipe, "teacher": {"model": str(run.path / "student")}}
    changed |= {"student": {"family": "tfidf", "options": {"C": 10}}}
    second = kdcli.distill(changed, output=tmp_path / "run")
    accuracies = [
        r.metrics[who]["test"]["accuracy"] for r, who in ((second, "teacher"), (run, "student"))
    ]
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"distill": {"learning_rate": 0.5}}, "distill.learning_rate"),
        ({"distill": {"losses": [{"kind": "attention_mse"}]}}, "distill.losses"),
    ],
)
def test_recipe_that_does_not_suit_is_refused_before_work(recipe, change, key, tmp_path):
    changed = {**recipe, **change}
    with pytest.raises(RecipeError, match=key):
        kdcli.distill(changed, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
