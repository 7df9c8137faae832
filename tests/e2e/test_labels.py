"""A label means the same to kd as to plain transformers, one text at a time."""

import csv
import json

import pytest
import torch
from datasets import Dataset
from helpers import kd_stdout
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

from kdcli.api.evaluation import evaluate_models
from kdcli.models.model_folder_inspection import find_weight_files
from kdcli.progress import SilentReporter

COUNT = 12
FEW = ("evaluate.latency_texts=1", "--latency-texts 1")


def distilled(folder, *more):
    """The run of `recipe.yaml`, briefly, and its figures."""
    few = ("distill.epochs=1", "baseline=false", FEW[0])
    kd_stdout(
        "distill",
        "recipe.yaml",
        "--quiet",
        *more,
        *(part for key in few for part in ("--set", key)),
    )
    (run,) = (folder / "runs").iterdir()
    return run, json.loads((run / "evaluation.json").read_text())


def classifier(folder, config, tokenizer, texts, names, **more):
    """An untrained model whose answers differ from text to text."""
    torch.manual_seed(0)
    changes = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    model = BertForSequenceClassification(type(config)(**{**config.to_dict(), **changes, **more}))
    with torch.no_grad():
        model.classifier.weight.normal_()
        logits = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        model.classifier.weight.div_(logits.std())
        model.classifier.bias.copy_(-logits.mean(0) / logits.std())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def texts(help_desk):
    return help_desk["train"]["text"][::20][:60]


def answers(model, texts):
    """The place of the highest output for each text, by plain transformers."""
    ask = pipeline("text-classification", str(model), device="cpu")
    ids = ask.model.config.label2id
    return [ids[ask(text)[0]["label"]] for text in texts]


def write(path, texts, labels, to):
    path.mkdir()
    for split in ("train", "validation", "test"):
        rows = [
            {"text": text, "label": to(label)} for text, label in zip(texts, labels, strict=True)
        ]
        if isinstance(rows[0]["label"], str):
            (path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        else:
            Dataset.from_list(rows).to_csv(path / f"{split}.csv", index=False)
    return path


NAMES = ("LABEL_{}".format, str)


@pytest.mark.parametrize("own", NAMES)
@pytest.mark.parametrize("to", [*NAMES, int])
def test_labels_by_number_mean_the_model_s_outputs(tmp_path, config, tokenizer, texts, own, to):
    model = classifier(tmp_path / "model", config, tokenizer, texts, [*map(own, range(COUNT))])
    said = answers(model, texts)
    assert {2, 10} < set(said), "sorted as text, 10 comes before 2"
    data = write(tmp_path / "data", texts, said, to)
    flags = [(f"data.dataset={data}", "--data"), FEW]
    figures = evaluate_models([str(model)], flags, SilentReporter()).evaluation["models"][0][
        "splits"
    ]
    assert figures["test"]["accuracy"] == figures["validation"]["accuracy"] == 1.0


def test_a_student_s_outputs_are_those_of_a_teacher_without_names(
    tmp_path, monkeypatch, config, tokenizer, texts
):
    monkeypatch.chdir(tmp_path)
    names = [*map("LABEL_{}".format, range(COUNT))]
    model = classifier(tmp_path / "model", config, tokenizer, texts, names)
    data = write(tmp_path / "data", texts, answers(model, texts), str)
    kd_stdout("recipe", "new", "--data", data, "--teacher", model)
    assert "nothing to fine-tune" in (tmp_path / "recipe.yaml").read_text()
    (made, found) = distilled(tmp_path)
    assert found["models"][0]["splits"]["test"]["accuracy"] == 1.0
    said = set(answers(model, texts))
    named = json.loads((made / "student/config.json").read_text())["id2label"]
    assert all(name in (i, f"LABEL_{i}") for i, name in named.items())
    assert len(said) <= len(named) == COUNT


def test_codes_make_as_many_outputs_as_there_are(tmp_path, monkeypatch, tiny_backbone, texts):
    monkeypatch.chdir(tmp_path)
    codes = [1011, 47110, 62010, 86210, 150_000]
    data = write(tmp_path / "data", texts, [codes[i % 5] for i in range(len(texts))], int)
    kd_stdout("recipe", "new", "--data", data, "--teacher", tiny_backbone)
    student = distilled(tmp_path, "--set", "teacher.fine_tune.epochs=1")[0] / "student"
    named = json.loads((student / "config.json").read_text())["id2label"]
    assert named == {str(i): str(code) for i, code in enumerate(codes)}
    assert (
        find_weight_files(student)[0].stat().st_size
        < find_weight_files(tiny_backbone)[0].stat().st_size
    )


def test_multi_hot_lists_mean_the_model_s_outputs(tmp_path, monkeypatch, config, tokenizer, texts):
    monkeypatch.chdir(tmp_path)
    several = {"problem_type": "multi_label_classification"}
    model = classifier(tmp_path / "model", config, tokenizer, texts, ["joy", "fear"], **several)
    plain = BertForSequenceClassification.from_pretrained(model).eval()
    read = AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        logits = [plain(**read(text, return_tensors="pt")).logits[0].tolist() for text in texts]
    rows = [[int(value > 0) for value in row] for row in logits]
    assert len({tuple(row) for row in rows}) > 2
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        with (tmp_path / f"data/{split}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["text", "label"])
            lines.writerows(zip(texts, map(str, rows), strict=True))
    flags = [("data.dataset=data", "--data"), FEW]
    figures = evaluate_models([str(model)], flags, SilentReporter()).evaluation["models"][0][
        "splits"
    ]
    assert figures["test"]["micro_f1"] == 1.0
    kd_stdout("recipe", "new", "--data", "data", "--teacher", model)
    run, found = distilled(tmp_path)
    assert found["models"][0]["splits"]["test"]["micro_f1"] == 1.0
    named = json.loads((run / "student/config.json").read_text())["id2label"]
    assert named == {"0": "joy", "1": "fear"}
    assert "LABEL_" not in (run / "evaluation.json").read_text()
