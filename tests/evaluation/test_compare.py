"""Models side by side, their labels matched by name."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import Listener
from scipy.special import softmax
from sklearn import metrics as sk
from transformers import pipeline

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import DataError, ModelError
from kdcli.evaluation.calibration import inference_config, out_of_scope_threshold
from kdcli.evaluation.compare import compare_models
from kdcli.evaluation.metrics import metric_catalog
from kdcli.evaluation.output import evaluation_schema
from kdcli.models import model_io
from kdcli.progress import SilentReporter
from kdcli.recipe.data import DataConfig
from kdcli.recipe.recipe_lookup import shipped_recipes_folder
from kdcli.recipe.schema import EvaluateConfig

SPEC = EvaluateConfig(latency_texts=2)
SCOPE = EvaluateConfig(latency_texts=2, out_of_scope="out_of_scope")


@pytest.fixture(scope="module")
def corpus(small_data):
    return load_dataset_splits(DataConfig(dataset=str(small_data), label="intent"), 0)


@pytest.fixture(scope="module")
def learnt(run):
    """Teacher and student of a real run, on the texts that they were trained for."""
    data = load_dataset_splits(
        DataConfig(dataset=str(shipped_recipes_folder() / "quickstart"), label="intent"), 0
    )
    folders = {"teacher": run / "teacher", "student": run / "student"}
    return compare_models(folders, data, SCOPE, None, SilentReporter())


def relabelled(model, tokenizer, names, folder):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model_io.save_model(model, tokenizer, folder)
    return folder


@pytest.fixture
def shuffled(tiny_teacher, tmp_path):
    """The tiny teacher with its labels, and its head's rows, in another order."""
    model = model_io.load_classifier(tiny_teacher)
    names = model_io.get_label_names(model.config)
    order = list(reversed(range(len(names))))
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order].clone())
        model.classifier.bias.copy_(model.classifier.bias[order].clone())
    tokenizer = model_io.load_tokenizer(tiny_teacher)
    return relabelled(model, tokenizer, [names[j] for j in order], tmp_path / "shuffled")


def without_times(model):
    left_out = ("name", "path", "latency_ms", "texts_per_second", "relative", "reference")
    return {key: value for key, value in model.items() if key not in left_out}


def test_the_order_of_labels_changes_no_figure(tiny_teacher, shuffled, corpus):
    folders = {"teacher": tiny_teacher, "shuffled": shuffled}
    found = compare_models(folders, corpus, SCOPE, None, SilentReporter()).evaluation
    assert found["examples"] == {"validation": 34, "test": 34}
    one, two = map(without_times, found["models"])
    for split in found["examples"]:
        figures = two["splits"][split]
        assert figures["agreement"] == 1.0
        assert figures["kl"] == pytest.approx(0, abs=1e-6)
        against = figures["against"]["teacher"]
        assert (against["broken"], against["repaired"], against["p"]) == (0, 0, 1.0)
        for name in one["splits"][split]["intervals"]:
            assert figures[name] == pytest.approx(one["splits"][split][name], abs=1e-6)
        assert figures["confusion"] == one["splits"][split]["confusion"]
    assert two["settings"]["temperature"] == pytest.approx(one["settings"]["temperature"], rel=1e-3)


def test_figures_are_those_of_the_models_own_answers(learnt, run):
    answer = pipeline("text-classification", str(run / "student"), top_k=None)
    rows = learnt.corpus.splits["test"]
    said = [{one["label"]: one["score"] for one in all_} for all_ in answer(list(rows["text"]))]
    truth = [learnt.corpus.label_names[i] for i in rows["label"]]
    best = [max(scores, key=scores.get) for scores in said]
    names = sorted(learnt.labels)
    probabilities = np.array([[scores[name] for name in names] for scores in said])
    probabilities /= probabilities.sum(-1, keepdims=True)
    student = learnt.evaluation["models"][1]["splits"]["test"]
    assert student["accuracy"] == pytest.approx(sk.accuracy_score(truth, best))
    assert student["macro_f1"] == pytest.approx(sk.f1_score(truth, best, average="macro"))
    assert student["log_loss"] == pytest.approx(
        sk.log_loss(truth, probabilities, labels=names), rel=1e-4
    )
    wrong = sum(n for i, j, n in student["confusion"] if i != j)
    assert wrong == sum(t != b for t, b in zip(truth, best, strict=True))


def test_a_real_student_is_told_from_chance_and_its_figures_are_bounded(learnt):
    for model in learnt.evaluation["models"]:
        for split, figures in model["splits"].items():
            assert figures["accuracy"] > 2 / 17, "it has learnt"
            assert figures["top_5_accuracy"] > figures["top_3_accuracy"] > figures["accuracy"]
            assert figures["scores"].keys() == {
                "probability", "margin", "energy", "entropy", "mahalanobis",
            }  # fmt: skip
            best = model["settings"]["operating_point"]["score"]
            assert figures["scores"][best]["auroc"] == figures["out_of_scope_auroc"] > 0.5
            for name, (low, high) in figures["intervals"].items():
                assert low <= figures[name] <= high, (name, split)


def test_every_figure_is_known_to_the_gates_and_has_an_interval(learnt):
    known = metric_catalog.HIGHER_IS_BETTER_BY_TASK[learnt.evaluation["task"]]
    for model in learnt.evaluation["models"]:
        for figures in model["splits"].values():
            numbers = {name for name, value in figures.items() if isinstance(value, float)}
            assert numbers <= known.keys()
            assert numbers == figures["intervals"].keys()
    student = learnt.evaluation["models"][1]["splits"]["test"]
    assert student.keys() >= known.keys()
    assert evaluation_schema.flatten_costs(learnt.evaluation["models"][1]).keys() == set(
        metric_catalog.COST_METRICS
    )


def test_the_threshold_is_chosen_on_validation_and_applied_on_test(learnt):
    found = learnt.evaluation["models"][1]
    point = inference_config.parse_calibration(found["settings"]).operating_point
    assert found["settings"]["from"] == "validation"
    outside = learnt.labels.index("out_of_scope")
    logits = {split: said["student"].logits for split, said in learnt.predictions.items()}
    gold = {
        split: np.array([learnt.labels.index(learnt.corpus.label_names[i]) for i in rows["label"]])
        for split, rows in learnt.corpus.splits.items()
        if split in logits
    }
    (chosen,) = out_of_scope_threshold.choose_out_of_scope_thresholds(
        logits["validation"], gold["validation"], outside, "out_of_scope", [0.02]
    )
    assert chosen == point
    inside = gold["validation"] != outside
    figures = found["splits"]
    assert figures["validation"]["in_scope_refused_at_threshold"] <= 0.02
    assert figures["validation"]["in_scope_refused_at_threshold"] > 0.02 - 1 / inside.sum()
    refused = point.predict_with_refusal(logits["test"], outside) == outside
    test = figures["test"]
    assert test["out_of_scope_recall_at_threshold"] == pytest.approx(
        refused[gold["test"] == outside].mean()
    )
    assert test["in_scope_refused_at_threshold"] == pytest.approx(
        refused[gold["test"] != outside].mean()
    )


def test_other_test_labels_choose_the_same_threshold_and_temperature(learnt, run):
    """Nothing of test goes into what is chosen."""
    data = learnt.corpus
    labels = list(reversed(data.splits["test"]["label"]))
    feature = data.splits["test"].features["label"]
    wrong = data.splits["test"].remove_columns("label").add_column("label", labels, feature=feature)
    changed = DatasetSplits({**data.splits, "test": wrong}, data.label_names)
    spec = SCOPE.model_copy(update={"splits": ("test",)})
    found = compare_models(
        {"student": run / "student"}, changed, spec, None, SilentReporter()
    ).evaluation
    assert found["models"][0]["settings"] == learnt.evaluation["models"][1]["settings"]
    assert found["models"][0]["splits"]["test"]["accuracy"] < 0.2


def test_what_a_model_brings_is_applied_and_nothing_is_chosen(learnt, run):
    point = out_of_scope_threshold.OutOfScopeThreshold("out_of_scope", "probability", 2.0, 0.5)
    brought = inference_config.Calibration(3.0, point)
    spec = SCOPE.model_copy(update={"splits": ("test",)})
    found = compare_models(
        {"student": run / "student"}, learnt.corpus, spec, None, SilentReporter(),
        saved_calibrations={"student": brought},
    ).evaluation["models"][0]  # fmt: skip
    assert found["settings"]["from"] == "model"
    assert found["settings"]["temperature"] == 3.0
    # No probability reaches 2: everything is refused.
    assert found["splits"]["test"]["in_scope_refused_at_threshold"] == 1.0
    assert "budgets" not in found["splits"]["test"]


def test_calibration_is_better_by_the_temperature(learnt):
    validation = learnt.evaluation["models"][1]["splits"]["validation"]
    assert validation["log_loss_calibrated"] <= validation["log_loss"]
    logits, rows = (
        learnt.predictions["validation"]["student"].logits,
        learnt.corpus.splits["validation"],
    )
    gold = [learnt.labels.index(learnt.corpus.label_names[i]) for i in rows["label"]]
    temperature = learnt.evaluation["models"][1]["settings"]["temperature"]
    expected = sk.log_loss(
        gold, softmax(logits.astype(float) / temperature, axis=-1), labels=range(17)
    )
    assert validation["log_loss_calibrated"] == pytest.approx(expected)


def test_larger_budgets_refuse_more(learnt):
    rows = learnt.evaluation["models"][1]["splits"]["test"]["budgets"]
    assert [row["refuse_at_most"] for row in rows] == [0.005, 0.01, 0.02, 0.05, 0.1]
    recalls = [row["out_of_scope_recall"] for row in rows]
    assert recalls == sorted(recalls)


def test_the_two_sides_of_a_pair_mirror_each_other(learnt):
    teacher, student = (model["splits"]["test"]["against"] for model in learnt.evaluation["models"])
    one, two = student["teacher"], teacher["student"]
    assert (one["broken"], one["repaired"], one["p"]) == (two["repaired"], two["broken"], two["p"])
    for name in ("accuracy", "macro_f1", "ece", "accuracy_at_threshold"):
        mine, its = one["differences"][name], two["differences"][name]
        assert mine["value"] == pytest.approx(-its["value"])
        assert mine["low"] == pytest.approx(-its["high"])
        assert mine["noise"] == its["noise"]


def test_costs_are_beside_those_of_the_teacher(learnt):
    teacher, student = learnt.evaluation["models"]
    assert "relative" not in teacher
    own, its = evaluation_schema.flatten_costs(student), evaluation_schema.flatten_costs(teacher)
    assert student["relative"] == {key: own[key] / its[key] for key in metric_catalog.COST_METRICS}
    assert student["relative"]["flops_per_token"] == pytest.approx(0.5, abs=0.05)
    assert student["peak_megabytes"] > 4 * student["parameters"] / 1e6


def test_the_document_is_json_and_its_short_form_is_shorter(learnt):
    text = evaluation_schema.format_evaluation_json(learnt.evaluation)
    again = json.loads(text)
    assert (
        again["models"][1]["splits"]["test"]["accuracy"]
        == (learnt.evaluation["models"][1]["splits"]["test"]["accuracy"])
    )
    assert again == json.loads(json.dumps(learnt.evaluation))
    short = evaluation_schema.drop_long_tables(learnt.evaluation)
    assert len(evaluation_schema.format_evaluation_json(short)) < 0.8 * len(text)
    assert "accuracy" in short["models"][0]["splits"]["test"]


def test_texts_that_occur_in_train_are_counted_and_left_out_beside(learnt, run):
    data = learnt.corpus
    known = data.splits["train"].select(range(10))
    new = data.splits["test"].select(range(30))
    from datasets import concatenate_datasets

    test = concatenate_datasets([known, new])
    both = DatasetSplits({"train": data.splits["train"], "test": test}, data.label_names)
    alone = DatasetSplits({"test": new}, data.label_names)
    spec = SCOPE.model_copy(update={"splits": ("test",)})
    models = {"student": run / "student"}
    found = compare_models(models, both, spec, None, SilentReporter()).evaluation
    expected = compare_models(models, alone, spec, None, SilentReporter()).evaluation
    assert found["repeated"] == {"test": {"texts": 10, "other_label": 0}}
    beside = found["models"][0]["splits"]["test"]["unrepeated"]
    apart = expected["models"][0]["splits"]["test"]
    assert beside == {name: apart[name] for name in beside}
    assert expected["repeated"] == {"test": None}


def test_a_label_that_the_model_lacks_is_refused(tiny_teacher, corpus, tmp_path):
    model = model_io.load_classifier(tiny_teacher)
    names = list(model_io.get_label_names(model.config))
    names[3] = "something_else"
    other = relabelled(model, model_io.load_tokenizer(tiny_teacher), names, tmp_path / "other")
    with pytest.raises(ModelError, match=r"other: The model doesn't know the label"):
        compare_models({"other": other}, corpus, SPEC, None, SilentReporter())


def test_models_of_different_labels_are_refused_with_both_lists(tiny_teacher, corpus, tmp_path):
    model = model_io.load_classifier(tiny_teacher)
    names = list(model_io.get_label_names(model.config))
    rare = corpus.splits["test"].filter(lambda row: row["label"] != 3)
    texts = DatasetSplits({"test": rare}, corpus.label_names)
    names[3] = "something_else"
    other = relabelled(model, model_io.load_tokenizer(tiny_teacher), names, tmp_path / "other")
    says = rf"only teacher knows {corpus.label_names[3]}, only other something_else"
    with pytest.raises(ModelError, match=says):
        compare_models(
            {"teacher": tiny_teacher, "other": other}, texts, SPEC, None, SilentReporter()
        )


def test_labels_without_names_are_taken_in_order_and_that_is_said(tiny_teacher, corpus, tmp_path):
    nameless = shutil.copytree(tiny_teacher, tmp_path / "nameless")
    config = json.loads((nameless / "config.json").read_text())
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(17)}
    config["label2id"] = {f"LABEL_{i}": i for i in range(17)}
    (nameless / "config.json").write_text(json.dumps(config))
    listener = Listener()
    folders = {"teacher": tiny_teacher, "nameless": nameless}
    found = compare_models(
        folders, replace(corpus, labels_are_ordered=True), SPEC, None, listener
    ).evaluation
    assert found["models"][1]["splits"]["test"]["agreement"] == 1.0
    assert any("nameless: its labels have no names" in said for said in listener.said)
    with pytest.raises(ModelError, match=r"nameless: .*id2label"):
        compare_models(folders, replace(corpus, labels_are_ordered=False), SPEC, None, listener)


def test_a_model_may_know_more_labels_than_the_texts_have(tiny_teacher, corpus):
    rows = corpus.splits["test"].filter(lambda row: row["label"] in (4, 9))
    found = compare_models(
        {"m": tiny_teacher},
        DatasetSplits({"test": rows}, corpus.label_names),
        SPEC,
        None,
        SilentReporter(),
    )
    assert sorted(found.labels) == sorted(corpus.label_names)
    assert found.evaluation["models"][0]["splits"]["test"]["log_loss"] > 0


def test_weights_that_are_no_numbers_are_said(tiny_teacher, corpus, tmp_path):
    model = model_io.load_classifier(tiny_teacher)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    model_io.save_model(model, model_io.load_tokenizer(tiny_teacher), tmp_path / "nan")
    with pytest.raises(ModelError, match=r"classifier\.bias"):
        compare_models({"nan": tmp_path / "nan"}, corpus, SPEC, None, SilentReporter())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"out_of_scope": "nothing"}, "no label nothing"), ({"splits": ("test",)}, "no split test")],
)
def test_what_can_t_be_measured_is_said(tiny_teacher, corpus, wrong, says):
    part = DatasetSplits({"train": corpus.splits["train"]}, corpus.label_names)
    spec = SPEC.model_copy(update={"splits": ("train",), **wrong})
    with pytest.raises(DataError, match=says):
        compare_models({"teacher": tiny_teacher}, part, spec, None, SilentReporter())


NAMES = ["a/teacher", "a/student", "b/teacher", "b/student", "x"]


@pytest.mark.parametrize(
    ("name", "names", "against", "expected"),
    [
        ("a/student", NAMES, None, "a/teacher"),
        ("b/student", NAMES, None, "b/teacher"),
        ("x", NAMES, None, "a/teacher"),
        ("b/student", NAMES, "a/student", "a/student"),
        ("a/student", NAMES, "a/student", None),
        ("student", ["teacher", "student", "baseline"], None, "teacher"),
        ("teacher", ["student", "teacher"], None, None),
        ("two", ["one", "two"], None, "one"),
        ("one", ["one", "two"], None, None),
    ],
)
def test_who_is_compared_with_whom(name, names, against, expected):
    assert evaluation_schema.reference_for_model(name, names, against) == expected
