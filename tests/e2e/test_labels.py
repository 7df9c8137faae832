"""A label means the same to kd as to plain transformers, one text at a time."""

import csv
import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline
from typer.testing import CliRunner

from kdcli.cli.app import app
from kdcli.models.files import weights

COUNT = 12


def kd(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def classifier(folder, config, tokenizer, names, **more):
    """An untrained model whose answers differ from text to text."""
    torch.manual_seed(0)
    changes = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    model = BertForSequenceClassification(
        type(config)(**{**config.to_dict(), "initializer_range": 1.0, **changes, **more})
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def texts(help_desk):
    return help_desk["train"]["text"][::10][:120]


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


@pytest.mark.parametrize("own", ["LABEL_{}", "{}"])
@pytest.mark.parametrize("to", ["LABEL_{}".format, str, int])
def test_labels_by_number_mean_the_model_s_outputs(
    tmp_path, monkeypatch, config, tokenizer, texts, own, to
):
    monkeypatch.chdir(tmp_path)
    names = [own.format(i) for i in range(COUNT)]
    model = classifier(tmp_path / "model", config, tokenizer, names)
    said = answers(model, texts)
    assert len(set(said)) > 8, "enough of the twelve to tell an order"
    data = write(tmp_path / "data", texts, said, to)
    kd("evaluate", model, "--data", data, "-o", "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["models"][0]["splits"]["test"]["accuracy"] == 1.0
    (tmp_path / "recipe.yaml").write_text(
        f"name: x\ndata: {{dataset: {data}}}\nteacher: {{model: {model}}}\n"
        "distill: {epochs: 1, batch_size: 60}\nevaluate: {latency_texts: 1}\n"
    )
    kd("distill", "recipe.yaml", "--quiet")
    found = json.loads((tmp_path / "runs/x/evaluation.json").read_text())
    assert found["models"][0]["splits"]["test"]["accuracy"] == 1.0
    published = json.loads((tmp_path / "runs/x/student/config.json").read_text())["id2label"]
    for i, name in published.items():
        assert name.removeprefix("LABEL_") == i


def test_codes_make_as_many_outputs_as_there_are(tmp_path, monkeypatch, tiny_backbone, texts):
    monkeypatch.chdir(tmp_path)
    codes = [1011, 47110, 62010, 86210, 150_000]
    data = write(tmp_path / "data", texts, [codes[i % 5] for i in range(len(texts))], int)
    kd("recipe", "new", "--data", data, "--teacher", tiny_backbone)
    fit = ["--set", "teacher.fine_tune.epochs=1", "--set", "distill.epochs=1"]
    kd("distill", "recipe.yaml", "--quiet", *fit, "--set", "baseline=false",
       "--set", "evaluate.latency_texts=1")  # fmt: skip
    student = next((tmp_path / "runs").glob("*/student"))
    named = json.loads((student / "config.json").read_text())["id2label"]
    assert named == {str(i): str(code) for i, code in enumerate(codes)}
    assert weights(student)[0].stat().st_size < weights(tiny_backbone)[0].stat().st_size


def test_multi_hot_lists_mean_the_model_s_outputs(tmp_path, monkeypatch, config, tokenizer, texts):
    monkeypatch.chdir(tmp_path)
    several = {"problem_type": "multi_label_classification"}
    model = classifier(tmp_path / "model", config, tokenizer, ["joy", "fear"], **several)
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
    kd("evaluate", model, "--data", "data", "-o", "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["models"][0]["splits"]["test"]["micro_f1"] == 1.0
    kd("recipe", "new", "--data", "data", "--teacher", model)
    done = kd("distill", "recipe.yaml", "--set", "distill.epochs=1", "--set", "baseline=false",
              "--set", "evaluate.latency_texts=1")  # fmt: skip
    assert "0 or 1" in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    found = json.loads((run / "evaluation.json").read_text())
    assert found["models"][0]["splits"]["test"]["micro_f1"] == 1.0
    named = json.loads((run / "student/config.json").read_text())["id2label"]
    assert named == {"0": "joy", "1": "fear"}
    assert "LABEL_" not in (run / "evaluation.json").read_text()
