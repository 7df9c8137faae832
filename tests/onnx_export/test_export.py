"""An exported folder is what clients expect, and nothing is handed over unchecked."""

import errno
import importlib.util
import json
import shutil
from dataclasses import asdict, replace

import helpers
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models import architectures
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import kdcli
from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.data.labels import label_arrays
from kdcli.errors import ModelError
from kdcli.onnx_export import onnx_folder
from kdcli.onnx_export.precision_gates import ExportTexts, export_to_onnx
from kdcli.onnx_export.quantization import CONVERTERS
from kdcli.pipeline.finished_run import files_to_publish
from kdcli.recipe.data import DataConfig
from kdcli.recipe.export import ExportConfig
from kdcli.recipe.schema import EvaluateConfig
from kdcli.runtime import Classifier

FILES = ("model.onnx", "model_quantized.onnx")


@pytest.fixture(params=FILES)
def file(request, exported):
    return exported / "onnx" / request.param


def test_the_graph_is_one_file_with_the_names_and_axes_that_clients_expect(file):
    graph = onnx.load(str(file), load_external_data=False)
    axes = {
        value.name: [axis.dim_param for axis in value.type.tensor_type.shape.dim]
        for value in graph.graph.input
    }
    both = ["batch_size", "sequence_length"]
    assert axes == {"input_ids": both, "attention_mask": both}
    (output,) = graph.graph.output
    assert output.name == "logits"
    assert graph.ir_version <= 8
    assert {e.domain: e.version for e in graph.opset_import}.get("", 99) <= 18
    assert not [t for t in graph.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "export.json", "model.onnx", "model_quantized.onnx"
    ]  # fmt: skip


def test_the_graph_holds_no_path_of_this_machine(file):
    content = file.read_bytes()
    for path in (b"site-packages", b"/kdcli/", b"/home/", b"/tmp/", b".py"):
        assert path not in content


def test_a_client_may_feed_all_that_the_tokenizer_gives(exported, file):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    session = onnxruntime.InferenceSession(str(file))
    inputs = dict(tokenizer(["my order", "where is it?"], padding=True, return_tensors="np"))
    (logits,) = session.run(None, inputs)
    model = AutoModelForSequenceClassification.from_pretrained(exported)
    assert model(**{name: torch.from_numpy(v) for name, v in inputs.items()}).logits.shape == (
        logits.shape
    )


def test_the_folder_is_one_of_plain_transformers_too(exported):
    classify = pipeline("text-classification", model=str(exported))
    labels = [Classifier(exported, file="model.onnx").predict([t])[0].label for t in ("a", "hello")]
    assert [answer["label"] for answer in classify(["a", "hello"])] == labels


def test_the_configuration_has_the_sizes_that_inference_servers_read(exported):
    config = json.loads((exported / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == (
        "distilbert",
        config["n_layers"],
        config["dim"],
    )


def test_a_batch_gives_each_text_its_logits_at_every_length(exported):
    texts = [" ".join(["order"] * length) for length in (1, 2, 5, 17, 40, 62, 80)]
    classifier = Classifier(exported, file="model.onnx")
    alone = classifier.predict_logits(texts, batch_size=1)
    np.testing.assert_allclose(classifier.predict_logits(texts), alone, atol=1e-5)


def test_int8_stores_embeddings_and_weights_in_8_bits(exported):
    graph = onnx.load(str(exported / "onnx/model_quantized.onnx")).graph
    large = [t for t in graph.initializer if np.prod(t.dims) >= 1024 and len(t.dims) == 2]
    assert large
    assert {t.data_type for t in large} == {onnx.TensorProto.INT8}


@pytest.fixture
def texts(small_data, exported):
    """Validation texts that the PyTorch model labels: any other label is a mistake."""
    data = DataConfig(dataset=str(small_data), label="intent")
    corpus = load_dataset_splits(data, 0)
    model = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    split, ids = corpus.splits["validation"], []
    for text in split["text"]:
        with torch.no_grad():
            best = model(**tokenizer(text, return_tensors="pt")).logits.argmax().item()
        ids.append(corpus.label_names.index(model.config.id2label[best]))
    labelled = label_arrays.label_with_predictions(
        split.remove_columns("label"), np.array(ids), corpus.label_names, corpus.task
    )
    corpus = replace(corpus, splits={**corpus.splits, "validation": labelled})
    return ExportTexts(corpus, EvaluateConfig())


@pytest.fixture
def model_copy(exported, tmp_path):
    """The exported model's folder without its ONNX files, which may be written to."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in exported.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def zero_weights(graph):
    for tensor in graph.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            zeros = np.zeros(tensor.dims, dtype=np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    return graph


@pytest.mark.parametrize(
    ("spoilt", "expected"),
    [((), "int8"), (("int8",), "int8-weights"), (("int8", "int8-weights"), "float32")],
)
def test_a_precision_that_misses_a_gate_gives_way_to_a_safer_one(
    model_copy, texts, monkeypatch, spoilt, expected
):
    converters = CONVERTERS | dict.fromkeys(spoilt, zero_weights)
    monkeypatch.setattr(onnx_folder, "CONVERTERS", converters)
    listener = helpers.Listener()
    config = ExportConfig(precision="int8", max_drop=("accuracy=0.1",))
    result = export_to_onnx(model_copy, config, texts, listener)
    assert result.precision == expected
    assert [sentence.split()[0] for sentence in result.rejected] == [*spoilt]
    assert listener.said == [f"{reason} A safer format is tried." for reason in result.rejected]
    assert (model_copy / "onnx/model_quantized.onnx").exists() == (expected != "float32")
    saved = json.loads((model_copy / "onnx/export.json").read_text())
    assert saved == json.loads(json.dumps(asdict(result)))
    if expected != "float32":
        changed = round(result.validation["texts"] * result.validation["drops"]["accuracy"])
        assert result.validation["changed_labels"] == changed


def test_float16_that_overflows_gives_way_to_float32(model_copy, texts, monkeypatch):
    def overflow(graph):
        raise ValueError("overflow")

    monkeypatch.setattr(onnx_folder, "CONVERTERS", CONVERTERS | {"float16": overflow})
    config = ExportConfig(precision="float16")
    result = export_to_onnx(model_copy, config, texts, helpers.Listener())
    assert result.precision == "float32"
    assert "overflow" in result.rejected[0]


def test_the_runtime_runs_the_precision_that_was_exported(model_copy):
    config = ExportConfig(precision="float16")
    export_to_onnx(model_copy, config, None, helpers.Listener())
    assert Classifier(model_copy).path.name == "model_fp16.onnx"


def test_a_multi_label_model_without_a_stated_task_is_exported_as_one(
    tiny_teacher, small_data, tmp_path
):
    data = tmp_path / "data.jsonl"
    rows = (json.dumps({"text": f"text {i}", "label": ["cancel_order"]}) for i in range(9))
    data.write_text("\n".join(rows))
    folder = kdcli.export(tiny_teacher, tmp_path / "exported", data=data, max_drop=["micro_f1=1"])
    assert Classifier(folder).task == "multi_label_classification"
    assert Classifier(folder).predict(["hello"])[0].label is None


def test_a_folder_that_would_be_lost_is_refused(tiny_teacher, refuses, tmp_path):
    assert "working folder" in refuses("export", tiny_teacher, "-o", ".", "--fresh")
    assert "working folder" in refuses("export", tiny_teacher, "-o", "..", "--fresh")


def test_a_replaced_folder_is_whole(tiny_teacher, tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/old.txt").touch()
    kdcli.export(tiny_teacher, tmp_path / "exported", fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert not (tmp_path / "exported/old.txt").exists()


def test_a_file_that_answers_otherwise_is_refused_and_nothing_is_left(
    tiny_teacher, tmp_path, monkeypatch
):
    translate = onnx_folder.export_onnx_graph
    monkeypatch.setattr(
        onnx_folder, "export_onnx_graph", lambda *inputs: zero_weights(translate(*inputs))
    )
    with pytest.raises(ModelError, match="other logits"):
        kdcli.export(tiny_teacher, tmp_path / "exported")
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_fills_up_leaves_nothing_half_written(tiny_teacher, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(onnx_folder, "_save_graph", fail)
    done = helpers.kd("export", tiny_teacher, "-o", tmp_path / "exported")
    assert done.exit_code == 3
    assert "Make room" in done.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("export_format", "missing", "extra"),
    [("onnx", "onnx", "export"), ("openvino", "nncf", "openvino")],
)
def test_without_its_packages_the_extra_is_named(
    tiny_teacher, refuses, monkeypatch, export_format, missing, extra
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *p: None if n == missing else find_spec(n, *p)
    )
    message = refuses("export", tiny_teacher, "-o", "there", "--format", export_format)
    assert f"kdcli[{extra}]" in message


def test_what_can_t_be_exported_is_refused(
    tiny_backbone, tiny_teacher, exported, refuses, tmp_path_factory
):
    slow = tmp_path_factory.mktemp("slow") / "model"
    architectures.save("canine", slow)
    assert "classification head" in refuses("export", tiny_backbone, "-o", "there")
    assert "--data" in refuses("export", tiny_teacher, "-o", "there", "--precision", "int8")
    assert "--fresh" in refuses("export", tiny_teacher, "-o", exported)
    assert "--max-drop" in refuses("export", tiny_teacher, "--max-drop", "beauty=1")
    assert "--data" in refuses("export", tiny_teacher, "--max-drop", "accuracy=1")
    assert "tokenizer.json" in refuses("export", slow, "-o", "there")


def test_evaluate_measures_the_exported_file_beside_its_source(exported, small_data):
    report = kdcli.evaluate(exported, data=small_data, label="intent", splits=["test"])
    names = [model["name"] for model in report.evaluation["models"]]
    assert names == ["exported", "exported-int8"]
    texts, labels = (list(report.comparison.corpus.splits["test"][c]) for c in ("text", "label"))
    answers = [p.label for p in Classifier(exported).predict(texts)]
    truth = [report.comparison.corpus.label_names[label] for label in labels]
    accuracy = np.mean([a == b for a, b in zip(answers, truth, strict=True)])
    assert report.metrics["exported-int8"]["test"]["accuracy"] == pytest.approx(accuracy)
    source, quantized = report.evaluation["models"]
    assert quantized["reference"] == "exported"
    assert quantized["megabytes"] < source["megabytes"] / 2
    assert quantized["parameters"] == source["parameters"]


def test_models_that_are_only_named_alike_are_strangers(exported, small_data, tmp_path):
    for name in ("foo", "foo-int8"):
        shutil.copytree(exported, tmp_path / name, ignore=shutil.ignore_patterns("onnx"))
    report = kdcli.evaluate(
        [tmp_path / "foo-int8", tmp_path / "foo"], data=small_data, label="intent", splits=["test"]
    )
    assert not any("exported_from" in model for model in report.evaluation["models"])
    assert [model["reference"] for model in report.evaluation["models"]] == [None, "foo-int8"]


def test_a_file_outside_of_an_export_is_refused(exported, small_data, tmp_path, refuses):
    file = tmp_path / "model.onnx"
    file.write_bytes((exported / "onnx/model.onnx").read_bytes())
    assert "model.onnx" in refuses("evaluate", file, "--data", small_data, "--label", "intent")


def test_a_damaged_note_of_the_export_is_named(exported, small_data, model_copy, refuses):
    (model_copy / "onnx").mkdir()
    (model_copy / "onnx/export.json").write_text("{}")
    assert "export.json" in refuses("evaluate", model_copy, "--data", small_data)


def test_a_single_file_is_a_model_too(exported, small_data):
    file = exported / "onnx/model.onnx"
    report = kdcli.evaluate([exported, file], data=small_data, label="intent", splits=["test"])
    by_name = report.metrics
    assert by_name[str(file)]["test"]["accuracy"] == by_name["exported"]["test"]["accuracy"]
    assert by_name[str(file)]["test"]["against"]["exported"]["agreement"] == 1


def test_a_recipe_s_export_is_measured_cached_and_published(tiny_teacher, small_data, tmp_path):
    recipe = {
        "name": "exporting",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_teacher)},
        "distill": {"epochs": 1},
        "evaluate": {"latency_texts": 2, "baselines": []},
        "export": {"precision": "int8-weights", "max_drop": ["accuracy=1"]},
        "report_to": [],
    }
    run = kdcli.distill(recipe, output=tmp_path / "run")
    exported = run.results["export"]
    assert exported["precision"] == "int8-weights"
    names = [model["name"] for model in run.results["evaluate"]["models"]]
    assert names == ["teacher", "student", "student-int8-weights"]
    settings = {m["name"]: m["settings"] for m in run.results["evaluate"]["models"]}
    assert settings["student-int8-weights"] == settings["student"]
    files = files_to_publish(run.path)
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "model.safetensors"} <= files.keys()
    texts = ["where is my order"]
    assert Classifier(run.student).predict(texts)[0].label
    listener = helpers.Listener()
    kdcli.distill(recipe, output=tmp_path / "run", reporter=listener)
    assert listener.started == []
    again = kdcli.export(run.student, tmp_path / "again", max_drop=["accuracy=1"])
    assert json.loads((again / "onnx/export.json").read_text())["precision"] == "int8"
    card = (run.student / "README.md").read_text()
    assert "student-int8-weights" in card
    assert "kdcli.runtime" in card
    # Without the export, its files are published no more.
    del recipe["export"]
    run = kdcli.distill(recipe, output=tmp_path / "run")
    assert "student-int8-weights" not in (run.student / "README.md").read_text()
    assert {*files_to_publish(run.path)} == {name for name in files if not name.startswith("onnx/")}
