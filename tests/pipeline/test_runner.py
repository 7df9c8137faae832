"""The pipeline does what is left to do, and no more."""

import json
import shutil

import forked
import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import Listener
from safetensors.torch import load_file

from kdcli.api.seed_repeats import repeat_with_seeds
from kdcli.data import dataset_loading
from kdcli.errors import DataError, ModelError, RecipeError, UsageError
from kdcli.pipeline import finished_run, planning, runner
from kdcli.pipeline.options import RunOptions
from kdcli.pipeline.run_folder import RunFolder
from kdcli.progress import SilentReporter
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe

FIT = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
REPORTS = ["page", "card"]
ALL = ["teacher", "student", "outputs", "distill", "evaluate", "settings", *REPORTS]


@pytest.fixture(scope="module")
def parts(tiny_backbone, small_data):
    return {
        "name": "tiny",
        "seed": 3,
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "student": {"keep_layers": [0, 3]},
        "distill": FIT,
        "evaluate": {"out_of_scope": "out_of_scope", "latency_texts": 3, "baselines": []},
    }


def recipe(parts, **changes):
    return Recipe.model_validate({**parts, **changes})


@pytest.fixture(scope="module")
def finished(parts, make_once):
    def fill(folder):
        listener = Listener()
        runner.run_pipeline(recipe(parts), folder / "tiny", listener)
        assert listener.started == ALL

    return make_once("pipeline", fill) / "tiny"


def again(parts, folder, **changes):
    listener = Listener()
    runner.run_pipeline(recipe(parts, **changes), folder, listener)
    return listener.started


@pytest.fixture
def own(finished, tmp_path):
    """A copy of the finished run to change."""
    return shutil.copytree(finished, tmp_path / "own")


def test_a_run_leaves_what_the_readme_says(finished):
    left = {p.name for p in finished.iterdir() if not p.name.startswith(".")}
    assert left == {
        "recipe.yaml", "run.json", "teacher", "student-init", "teacher-outputs", "student",
        "evaluation.json", "report.html", "logs",
    }  # fmt: skip
    assert (finished / "student/README.md").is_file()


def test_the_data_set_is_loaded_once(parts, tmp_path, monkeypatch):
    load, calls = dataset_loading.load_dataset_splits, []
    monkeypatch.setattr(
        dataset_loading, "load_dataset_splits", lambda *a, **k: (calls.append(a), load(*a, **k))[1]
    )
    runner.run_pipeline(recipe(parts), tmp_path / "run", SilentReporter())
    assert len(calls) == 1


def test_a_tracker_that_isn_t_there_is_told_before_any_work(parts, tmp_path):
    listener = Listener()
    with pytest.raises(RecipeError, match="no tracker 'nope'"):
        runner.run_pipeline(recipe(parts, report_to=["nope"]), tmp_path / "run", listener)
    assert listener.started == []
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_another_tracker_does_nothing_again(parts, own):
    assert again(parts, own, report_to=[]) == []


def test_the_times_on_the_card_are_of_what_the_student_is_made_of(finished):
    card = (finished / "student/README.md").read_text()
    cost = card.partition("### Environmental cost")[2].partition("###")[0]
    assert all(f"{stage} " in cost for stage in ALL[:5])
    assert "page" not in cost


def test_the_same_again_does_nothing(parts, own):
    before = (own / "run.json").read_bytes()
    assert again(parts, own) == []
    assert (own / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        ({"distill": {**FIT, "losses": [{"kind": "soft_targets", "temperature": 4}]}}, ALL[3:]),
        ({"evaluate": {"latency_texts": 2, "baselines": []}}, ALL[4:]),
        ({"card": {"license": "mit"}}, REPORTS),
        ({"student": {"keep_layers": [1, 2]}}, ["student", "distill", *ALL[4:]]),
        ({"teacher": {"model": None, "fine_tune": {**FIT, "learning_rate": 2e-3}}}, ALL),
    ],
)
def test_a_change_redoes_what_depends_on_it(parts, own, changes, redone):
    if "teacher" in changes:
        changes["teacher"]["model"] = parts["teacher"]["model"]
    assert again(parts, own, **changes) == redone


def test_the_plan_names_the_key_that_changed(parts, own):
    changed = recipe(parts, seed=4)
    reasons = [p.reason for p in planning.plan_stages(changed, RunFolder.open(own))]
    assert reasons[0] == "seed was 3, is 4"
    assert all(reasons)
    reasons = [p.reason for p in planning.plan_stages(recipe(parts), RunFolder.open(own))]
    assert reasons == [None] * len(ALL)


@pytest.mark.parametrize("fault", ["was changed", "is missing"])
def test_a_spoilt_teacher_is_noticed_and_made_again_with_what_depends_on_it(parts, own, fault):
    weights = own / "teacher/model.safetensors"
    content = weights.read_bytes()
    weights.unlink() if fault == "is missing" else weights.write_bytes(content[:-1])
    plan = planning.plan_stages(recipe(parts), RunFolder.open(own))
    assert [p.reason for p in plan[:2]] == [f"{weights} {fault}", "teacher is done again"]
    listener = Listener()
    runner.run_pipeline(recipe(parts), own, listener)
    assert f"Stage teacher is done again: {weights} {fault}." in listener.said
    assert listener.started == ALL
    assert weights.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"distill": {**FIT, "betas": [0.8, 0.999]}}, "distill.betas.0 was 0.9, is 0.8"),
        ({"distill": {**FIT, "learning_rate": 2e-3}}, "distill.learning_rate was 0.001, is 0.002"),
        ({"student": {"keep_layers": [0, 2]}}, "student.keep_layers.1 was 3, is 2"),
        ({"card": {"license": "mit"}}, "card.license was apache-2.0, is mit"),
    ],
)  # fmt: skip
def test_a_reason_names_the_key_and_both_values(parts, finished, changes, reason):
    plan = planning.plan_stages(recipe(parts, **changes), RunFolder.open(finished))
    assert next(p.reason for p in plan if p.reason) == reason


def test_a_lost_card_is_all_that_is_written(parts, own):
    (own / "student/README.md").unlink()
    assert again(parts, own) == ["card"]


def test_fresh_does_everything(parts, own):
    listener = Listener()
    runner.run_pipeline(recipe(parts), own, listener, "student", RunOptions(fresh=True))
    assert listener.started == ["teacher", "student"]


def test_the_same_seed_gives_the_same_student_bit_for_bit(parts, finished, tmp_path):
    runner.run_pipeline(recipe(parts), tmp_path / "twin", SilentReporter(), "distill")
    one, two = (
        load_file(folder / "student/model.safetensors") for folder in (finished, tmp_path / "twin")
    )
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)


def test_another_seed_gives_another_student(parts, finished, tmp_path):
    # Else the test above would pass where nothing is random, or nothing is trained.
    runner.run_pipeline(recipe(parts, seed=4), tmp_path / "other", SilentReporter(), "distill")
    one, two = (
        load_file(folder / "student/model.safetensors") for folder in (finished, tmp_path / "other")
    )
    # Biases and norms may stand still in so short a training; each layer's matrices do not.
    matrices = [name for name in one if one[name].ndim == 2 and ".layer." in name]
    assert len(matrices) == 2 * 6
    assert not any(one[name].equal(two[name]) for name in matrices)


def test_the_data_may_move(parts, own, small_data, tmp_path):
    moved = shutil.copytree(small_data, tmp_path / "elsewhere")
    data = {**parts["data"], "dataset": str(moved)}
    assert again(parts, own, data=data) == []


def test_a_finished_classifier_is_taken_as_it_is(parts, finished, tmp_path):
    teacher = {"model": str(finished / "teacher")}
    run = runner.run_pipeline(
        recipe(parts, teacher=teacher), tmp_path / "r", SilentReporter(), "teacher"
    )
    assert run.records["teacher"].result["history"] == []
    one, two = (load_file(f / "teacher/model.safetensors") for f in (finished, tmp_path / "r"))
    assert all(one[name].equal(two[name]) for name in one)


def test_labels_the_teacher_doesn_t_know_are_refused(parts, finished, tmp_path):
    data = tmp_path / "d.csv"
    data.write_text("text,intent\n" + "".join(f"t {i},{'ab'[i % 2]}\n" for i in range(40)))
    wrong = recipe(
        parts,
        teacher={"model": str(finished / "teacher")},
        data={"dataset": str(data), "label": "intent"},
    )
    with pytest.raises(ModelError, match="the data has a, b, the model cancel_order"):
        runner.run_pipeline(wrong, tmp_path / "r", SilentReporter())


def test_what_is_refused_leaves_a_finished_run_as_it_was(parts, own, small_data, tmp_path):
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="no label oos"):
        runner.run_pipeline(recipe(parts, evaluate={"out_of_scope": "oos"}), own, SilentReporter())
    broken = shutil.copytree(small_data, tmp_path / "broken")
    with (broken / "train.csv").open("a") as file:
        file.write("a text without a label\n")
    wrong = recipe(parts, data={"dataset": str(broken), "label": "intent"})
    with pytest.raises(DataError, match=r"train\.csv:122: the number of cells is 1"):
        runner.run_pipeline(wrong, own, SilentReporter())
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before


def test_no_run_is_made_where_its_files_would_count_as_data(parts, small_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    within = recipe(parts, data={"dataset": str(data), "label": "intent"})
    with pytest.raises(UsageError, match="lies in that of the data"):
        runner.run_pipeline(within, data / "runs/tiny", SilentReporter())
    assert not (data / "runs").exists()
    beside = {"train": "train*", "validation": "validation*"}
    named = recipe(parts, data={**within.data.model_dump(mode="json"), "splits": beside})
    made = runner.run_pipeline(named, data / "runs/tiny", SilentReporter(), "student")
    assert (made.path / "student-init").is_dir()


def test_a_pretrained_student_gets_the_teachers_labels(parts, tiny_backbone, tmp_path):
    changed = recipe(parts, student={"model": str(tiny_backbone)})
    run = runner.run_pipeline(changed, tmp_path / "r", SilentReporter(), "student")
    config = json.loads((run.path / "student-init/config.json").read_text())
    assert len(config["id2label"]) == 17


def test_a_run_beside_it_lends_its_teacher(parts, own):
    listener = Listener()
    beside = own.parent / "beside"
    changed = recipe(parts, distill={**FIT, "learning_rate": 2e-3}, student={"keep_layers": [1, 2]})
    runner.run_pipeline(changed, beside, listener)
    assert listener.started == ["student", "distill", *ALL[4:]]
    assert any("Another run has done stage teacher" in message for message in listener.said)
    reasons = [p.reason for p in planning.plan_stages(changed, RunFolder.open(beside))]
    assert reasons == [None] * len(ALL)
    # A copy, not a link: what becomes of one is nothing to the other.
    shutil.rmtree(own)
    assert again(parts, beside, student={"keep_layers": [1, 2]}) == ALL[3:]


def test_a_spoilt_teacher_is_not_taken_over(parts, own):
    weights = own / "teacher/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    listener = Listener()
    runner.run_pipeline(recipe(parts), own.parent / "beside", listener, "teacher")
    assert listener.started == ["teacher"]


def test_two_runs_at_once_fine_tune_one_teacher(parts, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(recipe(parts)))
    command = ["-m", "kdcli", "fine-tune-teacher", file, "-o"]
    # Processes: what transformers changes while it loads a model, it changes for all threads.
    runs = [forked.start(*command, tmp_path / n) for n in "01"]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sorted("Another run has done stage teacher" in text for text in said) == [False, True]
    one, two = (load_file(tmp_path / n / "teacher/model.safetensors") for n in "01")
    assert all(one[name].equal(two[name]) for name in one)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", file.name}


def test_a_baseline_is_the_same_student_taught_by_labels_alone(parts, own):
    assert again(parts, own, baseline=True) == ["baseline", *ALL[4:]]
    made = json.loads((own / "run.json").read_text())["stages"]
    assert set(made["baseline"]["result"]["history"][0]["training_terms"]) == {"cross_entropy"}
    names = [m["name"] for m in json.loads((own / "evaluation.json").read_text())["models"]]
    assert names == ["teacher", "student", "baseline"]
    shapes = [
        {name: t.shape for name, t in load_file(own / place / "model.safetensors").items()}
        for place in ("student", "baseline")
    ]
    assert shapes[0] == shapes[1]
    # What the student hears from its teacher is nothing to it.
    losses = [{"kind": "soft_targets", "temperature": 4}]
    changed = {"distill": {**FIT, "losses": losses}, "baseline": True}
    assert again(parts, own, **changed) == ALL[3:]
    assert again(parts, own, **(changed | {"baseline": False})) == ALL[4:]


def test_other_seeds_train_the_student_again_and_not_the_teacher(parts, own):
    listener = Listener()
    spread = repeat_with_seeds(recipe(parts), own, listener, 3)
    assert listener.started == ["student", "distill", "evaluate"] * 2
    assert spread["seeds"] == [3, 4, 5]
    accuracy = spread["models"]["student"]["test"]["accuracy"]
    values = [
        json.loads((own.with_name(name) / "evaluation.json").read_text())["models"][1]["splits"]
        ["test"]["accuracy"]
        for name in (own.name, f"{own.name}-seed4", f"{own.name}-seed5")
    ]  # fmt: skip
    assert accuracy["values"] == values
    assert accuracy["mean"] == pytest.approx(np.mean(values))
    assert accuracy["std"] == pytest.approx(np.std(values, ddof=1))
    assert json.loads((own / "seeds.json").read_text()) == spread
    assert again(parts, own) == [], "the run itself is as it was"


def test_each_seed_draws_its_own_random_initial_weights_and_no_others(parts, tiny_backbone, own):
    def drawn(seed, **student):
        one = recipe(parts, student=student, distill={**FIT, "seed": seed})
        runner.run_pipeline(one, own, SilentReporter(), "student")
        weights = load_file(own / "student-init/model.safetensors")
        (planned,) = (
            p for p in planning.plan_stages(one, RunFolder.open(own)) if p.stage.name == "student"
        )
        return {name: t.numpy().tobytes() for name, t in weights.items()}, planned.key

    def changed(**student):
        (one, key), (other, other_key) = (drawn(seed, **student) for seed in (3, 4))
        assert drawn(3, **student) == (one, key), "a seed draws the same again"
        return {name for name in one if one[name] != other[name]}, key != other_key

    assert changed(keep_layers=[0, 3]) == (set(), False)
    heads, made_again = changed(model=str(tiny_backbone))
    # The backbone has no head; its biases start from 0.
    assert heads == {"classifier.weight"}
    assert made_again
    all_weights, made_again = changed(hidden_size=16, num_attention_heads=2, keep_layers=[0, 3])
    assert any("layer.1" in name for name in all_weights)
    assert any("word_embeddings" in name for name in all_weights)
    assert made_again


def test_the_seed_alone_decides_on_projections(parts, own):
    losses = [{"kind": "hidden_mse"}]
    one = recipe(
        parts,
        student={"hidden_size": 16, "num_attention_heads": 2, "keep_layers": [0, 3]},
        distill={**FIT, "losses": losses},
    )
    found = []
    for earlier in (1, 2):
        runner.run_pipeline(one, own, SilentReporter(), "outputs")
        torch.manual_seed(earlier)
        runner.run_pipeline(one, own, SilentReporter(), "distill")
        found.append(load_file(own / "student/model.safetensors"))
        run = RunFolder.open(own)
        run.forget_stages(["distill"])
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


def test_what_a_person_wrote_into_the_card_outlives_the_student(parts, own):
    card = own / "student/README.md"
    mine = "<!-- yours -->\nAsk *us* before use.\n<!-- /yours -->\n"
    card.write_text(card.read_text().replace("## Results", f"{mine}\n## Results", 1))
    finished_run.rewrite_reports(own, SilentReporter())
    assert card.read_text().count("Ask *us* before use.") == 1
    again(parts, own, student={"keep_layers": [1, 2]})
    section = card.read_text().partition("## How to use it")[2].partition("## Results")[0]
    assert "Ask *us* before use." in section


def test_who_holds_a_run_is_said(parts, own):
    code = """
import sys, time
from pathlib import Path
from kdcli.pipeline.locks import run_folder_lock
with run_folder_lock(Path(sys.argv[1])):
    print("held", file=sys.stderr)
    time.sleep(60)
"""
    with forked.start("-c", code, own) as other:
        assert other.stderr.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {other.pid} on .*, since 20"):
            runner.run_pipeline(recipe(parts), own, SilentReporter())
        other.kill()
    assert again(parts, own) == [], "the lock of a dead process is no obstacle"


def test_one_run_at_a_time(parts, own):
    with FileLock(own / ".lock"), pytest.raises(UsageError, match="Another kd is at work"):
        runner.run_pipeline(recipe(parts), own, SilentReporter())


def test_the_card_is_written_again_only_where_the_run_is_whole(own):
    (own / "evaluation.json").write_text("{}")
    with pytest.raises(UsageError, match="was changed"):
        finished_run.rewrite_reports(own, SilentReporter())


def test_a_run_that_hardly_began_has_no_card(own):
    (own / "run.json").write_text('{"stages": {}}')
    with pytest.raises(UsageError, match="stage teacher: not done yet"):
        finished_run.rewrite_reports(own, SilentReporter())


def test_the_latest_run_is_the_one_worked_on_last(tmp_path):
    import os

    for age, name in ((100, "old"), (50, "new"), (200, "oldest")):
        (tmp_path / name).mkdir()
        manifest = tmp_path / name / "run.json"
        manifest.touch()
        os.utime(manifest, (1e9 - age, 1e9 - age))
    assert finished_run.find_last_changed_run(tmp_path).name == "new"
    with pytest.raises(UsageError, match="no run"):
        finished_run.find_last_changed_run(tmp_path / "nowhere")


def test_the_forecast_counts_what_will_be(parts, finished):
    from kdcli.pipeline.run_estimate import estimate_run

    expected = estimate_run(recipe(parts), SilentReporter())
    made = RunFolder.open(finished).records
    for stage in ("teacher", "student", "distill"):
        assert expected[stage]["parameters"] == made[stage].result["parameters"]
    for stage in ("teacher", "distill"):
        assert expected[stage]["steps"] == made[stage].result["history"][-1]["step"]
        assert expected[stage]["seconds"] > 0
