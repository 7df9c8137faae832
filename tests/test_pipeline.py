"""The pipeline does what is left to do, and no more."""

import json
import subprocess
import sys

import pytest
from filelock import FileLock
from safetensors.torch import load_file

from kdcli import pipeline
from kdcli.errors import DataError, ModelError, UsageError
from kdcli.progress import Silent
from kdcli.recipe.schema import Recipe
from kdcli.run import RunFolder

FIT = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
ALL = ["teacher", "student", "outputs", "distill", "evaluate", "card"]


class Listener(Silent):
    """Remembers what was told."""

    def __init__(self):
        self.started, self.said = [], []

    def start(self, stage, doing):
        self.started.append(stage)

    def say(self, message):
        self.said.append(message)


@pytest.fixture(scope="module")
def parts(tiny_backbone, small_data):
    return {
        "name": "tiny",
        "seed": 3,
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "student": {"keep": [0, 3]},
        "distill": FIT,
        "evaluate": {"out_of_scope": "out_of_scope", "latency_texts": 3},
    }


def recipe(parts, **changes):
    return Recipe.model_validate({**parts, **changes})


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    listener = Listener()
    pipeline.execute(recipe(parts), folder, listener)
    assert listener.started == ALL
    return folder


def again(parts, folder, **changes):
    listener = Listener()
    pipeline.execute(recipe(parts, **changes), folder, listener)
    return listener.started


@pytest.fixture
def own(finished, tmp_path):
    """A copy of the finished run to change."""
    import shutil

    return shutil.copytree(finished, tmp_path / "own")


def test_a_run_leaves_what_the_readme_says(finished):
    left = {p.name for p in finished.iterdir() if not p.name.startswith(".")}
    assert left == {
        "recipe.yaml", "run.json", "teacher", "student-init", "teacher-outputs", "student",
        "evaluation.json", "logs",
    }  # fmt: skip
    assert (finished / "student/README.md").is_file()


def test_the_same_again_does_nothing(parts, own):
    before = (own / "run.json").read_bytes()
    assert again(parts, own) == []
    assert (own / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        ({"distill": {**FIT, "losses": [{"kind": "soft_targets", "temperature": 4}]}}, ALL[3:]),
        ({"evaluate": {"latency_texts": 2}}, ALL[4:]),
        ({"card": {"license": "mit"}}, ALL[5:]),
        ({"student": {"keep": [1, 2]}}, ["student", "distill", "evaluate", "card"]),
        ({"teacher": {"model": None, "fine_tune": {**FIT, "learning_rate": 2e-3}}}, ALL),
    ],
)
def test_a_change_redoes_what_depends_on_it(parts, own, changes, redone):
    if "teacher" in changes:
        changes["teacher"]["model"] = parts["teacher"]["model"]
    assert again(parts, own, **changes) == redone


def test_the_plan_names_the_key_that_changed(parts, own):
    changed = recipe(parts, seed=4)
    reasons = [p.reason for p in pipeline.plan(changed, RunFolder.open(own))]
    assert reasons[0] == "seed was 3, is 4"
    assert all(reasons)
    assert not any(p.reason for p in pipeline.plan(recipe(parts), RunFolder.open(own)))


@pytest.mark.parametrize("fault", ["was changed", "is missing"])
def test_a_spoilt_teacher_is_noticed_and_made_again_with_what_depends_on_it(parts, own, fault):
    weights = own / "teacher/model.safetensors"
    content = weights.read_bytes()
    weights.unlink() if fault == "is missing" else weights.write_bytes(content[:-1])
    plan = pipeline.plan(recipe(parts), RunFolder.open(own))
    assert [p.reason for p in plan[:2]] == [f"{weights} {fault}", "teacher is done again"]
    assert again(parts, own) == ALL
    assert weights.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"distill": {**FIT, "losses": [{"kind": "soft_targets", "temperature": 4},
                                        {"kind": "cross_entropy", "weight": 0.5}]}},
         "distill.losses.0.temperature was 2, is 4"),
        ({"distill": {**FIT, "learning_rate": 2e-3}}, "distill.learning_rate was 0.001, is 0.002"),
        ({"student": {"keep": [0, 2]}}, "student.keep.1 was 3, is 2"),
        ({"card": {"license": "mit"}}, "card.license was apache-2.0, is mit"),
    ],
)  # fmt: skip
def test_a_reason_names_the_key_and_both_values(parts, finished, changes, reason):
    plan = pipeline.plan(recipe(parts, **changes), RunFolder.open(finished))
    assert next(p.reason for p in plan if p.reason) == reason


def test_a_lost_card_is_all_that_is_written(parts, own):
    (own / "student/README.md").unlink()
    assert again(parts, own) == ["card"]


def test_fresh_does_everything(parts, own):
    listener = Listener()
    pipeline.execute(recipe(parts), own, listener, "student", fresh=True)
    assert listener.started == ["teacher", "student"]


def test_the_same_seed_gives_the_same_student_bit_for_bit(parts, finished, tmp_path):
    pipeline.execute(recipe(parts), tmp_path / "twin", Silent(), "distill")
    one, two = (
        load_file(folder / "student/model.safetensors") for folder in (finished, tmp_path / "twin")
    )
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)


def test_another_seed_gives_another_student(parts, finished, tmp_path):
    # Else the test above would pass where nothing is random, or nothing is trained.
    pipeline.execute(recipe(parts, seed=4), tmp_path / "other", Silent(), "distill")
    one, two = (
        load_file(folder / "student/model.safetensors") for folder in (finished, tmp_path / "other")
    )
    assert not any(one[name].equal(two[name]) for name in one if name.endswith("lin1.weight"))


def test_the_data_may_move(parts, own, small_data, tmp_path):
    import shutil

    moved = shutil.copytree(small_data, tmp_path / "elsewhere")
    data = {**parts["data"], "dataset": str(moved)}
    assert again(parts, own, data=data) == []


def test_a_finished_classifier_is_taken_as_it_is(parts, finished, tmp_path):
    teacher = {"model": str(finished / "teacher")}
    run = pipeline.execute(recipe(parts, teacher=teacher), tmp_path / "r", Silent(), "teacher")
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
        pipeline.execute(wrong, tmp_path / "r", Silent())


def test_an_out_of_scope_label_that_isn_t_one_is_refused(parts, own):
    wrong = recipe(parts, evaluate={"out_of_scope": "oos"})
    with pytest.raises(DataError, match="no label oos"):
        pipeline.execute(wrong, own, Silent())


def test_a_pretrained_student_gets_the_teachers_labels(parts, tiny_backbone, tmp_path):
    changed = recipe(parts, student={"model": str(tiny_backbone)})
    run = pipeline.execute(changed, tmp_path / "r", Silent(), "student")
    config = json.loads((run.path / "student-init/config.json").read_text())
    assert len(config["id2label"]) == 17


def test_who_holds_a_run_is_said(parts, own):
    code = (
        "import sys, time; from pathlib import Path; from kdcli.pipeline import _locked\n"
        "with _locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(own)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {other.pid} on .*, since 20"):
            pipeline.execute(recipe(parts), own, Silent())
        other.kill()
    assert again(parts, own) == [], "the lock of a dead process is no obstacle"


def test_one_run_at_a_time(parts, own):
    with FileLock(own / ".lock"), pytest.raises(UsageError, match="Another kd is at work"):
        pipeline.execute(recipe(parts), own, Silent())


def test_the_card_is_written_again_only_where_the_run_is_whole(own):
    (own / "evaluation.json").write_text("{}")
    with pytest.raises(UsageError, match="was changed"):
        pipeline.write_card(own, Silent())


def test_the_latest_run_is_the_one_worked_on_last(tmp_path):
    import os

    for age, name in ((100, "old"), (50, "new"), (200, "oldest")):
        (tmp_path / name).mkdir()
        manifest = tmp_path / name / "run.json"
        manifest.touch()
        os.utime(manifest, (1e9 - age, 1e9 - age))
    assert pipeline.latest_run(tmp_path).name == "new"
    with pytest.raises(UsageError, match="no run"):
        pipeline.latest_run(tmp_path / "nowhere")


def test_the_forecast_counts_what_will_be(parts, finished):
    from kdcli.stages.forecast import forecast

    expected = forecast(recipe(parts), Silent())
    made = RunFolder.open(finished).records
    for stage in ("teacher", "student", "distill"):
        assert expected[stage]["parameters"] == made[stage].result["parameters"]
    for stage in ("teacher", "distill"):
        assert expected[stage]["steps"] == made[stage].result["history"][-1]["step"]
        assert expected[stage]["seconds"] > 0
