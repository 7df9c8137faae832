"""The runtime without PyTorch decides as kd does, with the model's own labels, and alone."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from models import architectures
from scipy.special import expit, softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import kdcli
from kdcli import runtime
from kdcli.errors import DataError, ModelError
from kdcli.evaluation.calibration.out_of_scope_threshold import OutOfScopeThreshold
from kdcli.evaluation.metrics.out_of_scope import SCORE_NAMES, in_scope_score
from kdcli.runtime import Classifier

# Longer than the 64 tokens that the model reads.
LONG = " ".join(["my printer is broken and the order never arrived"] * 12)


@pytest.fixture(scope="module")
def texts(help_desk):
    return [*help_desk["test"]["text"][:40], "", "ok", LONG]


@pytest.fixture(scope="module")
def classifier(exported):
    return Classifier(exported, file="model.onnx")


def logits_of_transformers(folder, encode):
    """The logits of plain transformers, for each row that `encode` makes of a text, alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = encode(AutoTokenizer.from_pretrained(folder))
    with torch.no_grad():
        return [model(**row).logits[0].numpy() for row in rows]


def truncated_to_64(texts):
    """Encode texts as transformers does."""
    options = {"truncation": True, "max_length": 64, "return_tensors": "pt"}
    return lambda tokenizer: [
        tokenizer(*(text if isinstance(text, tuple) else (text,)), **options) for text in texts
    ]


def with_settings(exported, tmp_path, **settings):
    """A folder like `exported` with other values in `kd.json`, its files linked."""
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    for file in exported.rglob("*"):
        if file.is_file() and file.name != "kd.json":
            (folder / file.relative_to(exported)).hardlink_to(file)
    content = {"temperature": 1.0, "operating_point": None, **settings}
    (folder / "kd.json").write_text(json.dumps(content))
    return folder


def test_logits_are_those_of_transformers_one_text_at_a_time(exported, classifier, texts):
    expected = logits_of_transformers(exported, truncated_to_64(texts))
    np.testing.assert_allclose(classifier.predict_logits(texts), expected, atol=2e-5)


@pytest.mark.parametrize("truncation", ["head", "tail", "both", "windows"])
def test_long_texts_are_cut_as_in_training(exported, truncation):
    classifier = Classifier(exported, file="model.onnx", max_length=24, truncation=truncation)

    def encode(tokenizer):
        ids = tokenizer(LONG)["input_ids"]
        inner, (cls, sep) = ids[1:-1], (ids[0], ids[-1])
        rows = {
            "head": [inner[:22]],
            "tail": [inner[-22:]],
            "both": [[*inner[:11], *inner[-11:]]],
            # Windows of 22 tokens, 6 of which are those of the window before.
            "windows": [inner[start : start + 22] for start in range(0, len(inner) - 6, 16)],
        }
        return [{"input_ids": torch.tensor([[cls, *row, sep]])} for row in rows[truncation]]

    expected = np.mean(logits_of_transformers(exported, encode), axis=0)
    np.testing.assert_allclose(classifier.predict_logits([LONG])[0], expected, atol=2e-5)


def test_pairs_are_read_as_pairs(exported, classifier):
    pairs = [("my order is late", "where is it"), ("hello", LONG)]
    expected = logits_of_transformers(exported, truncated_to_64(pairs))
    np.testing.assert_allclose(classifier.predict_logits(pairs), expected, atol=2e-5)


def test_an_int8_answer_does_not_depend_on_the_other_texts(exported, texts):
    classifier = Classifier(exported)
    assert classifier.path.name == "model_quantized.onnx"
    together = classifier.predict_logits(texts)
    alone = np.concatenate([classifier.predict_logits([text]) for text in texts])
    assert (together == alone).all()
    assert (together == classifier.predict_logits(texts[::-1])[::-1]).all()


@pytest.mark.parametrize("score", SCORE_NAMES)
def test_texts_below_the_threshold_are_out_of_scope(exported, classifier, texts, tmp_path, score):
    logits = classifier.predict_logits(texts)
    outside = classifier.labels.index("out_of_scope")
    scores = in_scope_score(score, logits, outside)
    point = {
        "label": "out_of_scope",
        "score": score,
        "threshold": float(np.median(scores)),
        "refuse_at_most": 0.5,
    }
    folder = with_settings(exported, tmp_path, operating_point=point, temperature=1.5)
    predictions = Classifier(folder, file="model.onnx").predict(texts, top_k=3)
    expected = OutOfScopeThreshold(**point).predict_with_refusal(logits, outside)
    assert [p.label for p in predictions] == [classifier.labels[i] for i in expected]
    assert [p.refused for p in predictions] == list(scores < point["threshold"])
    assert 0 < sum(p.refused for p in predictions) < len(texts)
    probabilities = softmax(logits.astype(np.float64) / 1.5, axis=-1)
    for prediction, row, index in zip(predictions, probabilities, expected, strict=True):
        assert prediction.score == pytest.approx(row[index])
        best = np.argsort(-row)[:3]
        assert prediction.top == tuple((classifier.labels[i], pytest.approx(row[i])) for i in best)


def test_a_text_gets_every_label_above_its_threshold(exported, classifier, texts, tmp_path):
    logits = classifier.predict_logits(texts)
    quantiles = np.quantile(expit(logits.astype(np.float64)), 0.7, axis=0)
    limits = dict(zip(classifier.labels, quantiles.tolist(), strict=True))
    folder = with_settings(exported, tmp_path, thresholds=limits, temperature=2.0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(
        json.dumps(config | {"problem_type": "multi_label_classification"})
    )
    predictions = Classifier(folder, file="model.onnx").predict(texts)
    expected = expit(logits.astype(np.float64)) >= np.array([*limits.values()])
    assert [set(p.labels) for p in predictions] == [
        {label for label, there in zip(classifier.labels, row, strict=True) if there}
        for row in expected
    ]
    assert predictions[0].score == pytest.approx(expit(logits[0].astype(np.float64) / 2).max())


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000", 64), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_threads_are_those_of_the_container(tmp_path, monkeypatch, limit, expected):
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(runtime, "_CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    assert runtime.available_cpus() == expected


SETTINGS = {"temperature": 1.0, "operating_point": None}
POINT = {"label": "out_of_scope", "score": "margin", "threshold": 0.0}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", {"architectures": ["BertForSequenceClassification"], "id2label": ["a"]}),
        ("config.json", {"architectures": ["BertForSequenceClassification"]}),  # two labels
        ("tokenizer.json", None),
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("onnx/model_quantized.onnx", "no graph"),
        ("kd.json", "{}"),
        ("kd.json", SETTINGS | {"temperature": 0}),
        ("kd.json", SETTINGS | {"temperature": None}),
        ("kd.json", SETTINGS | {"max_length": "64"}),
        ("kd.json", SETTINGS | {"truncate": "foo"}),
        ("kd.json", SETTINGS | {"operating_point": "margin"}),
        ("kd.json", SETTINGS | {"operating_point": POINT | {"label": "x"}}),
        ("kd.json", SETTINGS | {"operating_point": POINT | {"score": "x"}}),
        ("kd.json", SETTINGS | {"thresholds": {"out_of_scope": None}}),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(exported, tmp_path, name, content):
    folder = with_settings(exported, tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ModelError, match=Path(name).name.replace("config.json", "(config|onnx)")):
        Classifier(folder)


@pytest.mark.parametrize("texts", ["hello", [None], [("a", "b", "c")], [["a", 1]]])
def test_what_is_no_list_of_texts_is_refused(classifier, texts):
    with pytest.raises(DataError):
        classifier.predict(texts)


def test_a_text_without_tokens_is_refused_by_its_place(tmp_path):
    """A decoder's tokenizer adds no token, so that an empty text has none."""
    architectures.save("gpt2", tmp_path / "model")
    kdcli.export(tmp_path / "model", tmp_path / "exported")
    with pytest.raises(DataError, match="Text 1"):
        Classifier(tmp_path / "exported").predict(["w1 w2", ""])


def test_labels_that_transformers_leaves_out_are_those_that_it_means(exported, tmp_path):
    """It saves no names for two labels without one; the graph here has 17."""
    folder = with_settings(exported, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(17)}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    assert Classifier(folder).predict(["hello"])[0].label.startswith("LABEL_")


def test_many_texts_are_read_in_chunks(classifier, texts, monkeypatch):
    expected, told = classifier.predict_logits(texts), []
    monkeypatch.setattr(runtime, "_CHUNK_TEXTS", 7)
    found = classifier.predict_logits(texts, advance=lambda *progress: told.append(progress))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert told == sorted(told)
    assert told[-1] == (len(texts), len(texts))


RUN = """
import sys
from kdcli.runtime import Classifier
print([p.label for p in Classifier(sys.argv[1]).predict(sys.argv[2:])])
heavy = {"torch", "transformers", "datasets", "pydantic", "onnx", "scipy"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_it_imports_neither_torch_nor_transformers(exported):
    texts = ["where is my order", "hello"]
    expected = [p.label for p in Classifier(exported).predict(texts)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, exported, *texts], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{expected}\n"


@pytest.mark.slow
def test_it_runs_where_only_its_requirements_are_installed(exported, tmp_path):
    texts = ["where is my order", "hello"]
    expected = [p.label for p in Classifier(exported).predict(texts)]
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    root = Path(__file__).parents[1]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-r", exported / "requirements.txt"], check=True
    )
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", root], check=True)
    done = subprocess.run(
        [python, "-c", RUN, exported, *texts],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout == f"{expected}\n"


def test_onnxruntime_is_imported_without_its_telemetry():
    code = (
        "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None); import kdcli.runtime; "
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
