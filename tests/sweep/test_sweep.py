"""A sweep: many students of one teacher, stopped and gone on with, and the best of them chosen."""

import json
import shutil
import signal
import sqlite3
import sys
from dataclasses import replace

import forked
import pytest
import yaml
from filelock import FileLock
from helpers import kd

import kdcli
from kdcli.errors import RecipeError, UsageError
from kdcli.pipeline import planning
from kdcli.pipeline.run_folder import RunFolder
from kdcli.recipe.loading import config_from_flags, load_recipe, recipe_for_trial
from kdcli.recipe.schema import Recipe
from kdcli.sweep import optuna_storage, pareto, search_space, trials
from kdcli.sweep.pareto import TimedModel
from kdcli.sweep.trials import StaticCosts, Trial
from kdcli.tasks import SINGLE_LABEL

FIT = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
RATES = {"low": 1e-4, "high": 1e-2, "log": True}


@pytest.fixture(scope="module")
def place(tiny_backbone, small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    recipe = {
        "name": "tiny",
        "seed": 3,
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_backbone), "fine_tune": FIT},
        "student": {"drop_every": 2},
        "distill": FIT,
        "evaluate": {"latency_texts": 5, "baselines": []},
        "report_to": [],
        "sweep": {"distill.learning_rate": RATES, "student.num_hidden_layers": [1, 2]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def start(place, *arguments):
    return forked.start("-m", "kdcli", "sweep", place / "recipe.yaml", *arguments, cwd=place)


def sweep(place, *arguments):
    done = forked.kd("sweep", place / "recipe.yaml", *arguments, cwd=place)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def in_process(place, *arguments):
    return kd("sweep", place / "recipe.yaml", *arguments)


@pytest.fixture(scope="module")
def finished(place):
    """A sweep that was killed in its second trial and gone on with: what it said, and came to."""
    folder = place / "runs/tiny-sweep"
    with start(place, "--trials", "4") as process:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("trial 1 (2 of 4): learning_rate"):
                break
        process.send_signal(signal.SIGKILL)
    done = sweep(place, "--trials", "4", "--json")
    assert done.returncode == 0, done.stderr
    return folder, "".join(seen), done.stderr, json.loads(done.stdout)


def test_resume_after_kill_repeats_no_finished_trial(finished):
    _, before, after, document = finished
    assert "trial 0: done" in before
    assert "trial 0:" not in after
    assert "teacher: reused" in after
    assert [trial["number"] for trial in document["trials"]] == [0, 1, 2, 3]
    assert {trial["state"] for trial in document["trials"]} <= {"done", "pruned"}
    wanted = before.partition("trial 1 (2 of 4): learning_rate ")[2].partition(",")[0]
    assert f"trial 1 (2 of 4): learning_rate {wanted}," in after


def test_trials_have_distinct_hyperparameters(finished):
    tried = [tuple(trial["settings"].values()) for trial in finished[3]["trials"]]
    assert len(set(tried)) == 4
    assert finished[3]["trials"][0]["settings"]["distill.learning_rate"] == 1e-3, "the recipe's own"


def test_trials_share_one_teacher(finished, place):
    folder, *_, document = finished
    teacher = folder / "teacher/model.safetensors"
    for point in document["frontier"]:
        assert (place / point["run"] / "teacher/model.safetensors").samefile(teacher)


def test_dominated_trials_are_deleted(finished):
    folder, *_, document = finished
    kept = {point["name"].replace(" ", "-") for point in document["timed"]} - {"teacher"}
    assert {path.name for path in folder.glob("trial-*")} == kept
    assert not list(folder.glob(".trial-*"))


def test_the_chosen_recipe_runs_without_training_again(finished):
    folder, *_, document = finished
    chosen = document["chosen"]
    recipe = load_recipe(str(folder / "best.yaml"))
    assert recipe.distill.learning_rate == chosen["settings"]["distill.learning_rate"]
    assert recipe.student.num_hidden_layers == chosen["settings"]["student.num_hidden_layers"]
    planned = planning.plan_stages(
        recipe, RunFolder.open(folder / chosen["name"].replace(" ", "-"))
    )
    reused = [item.stage.name for item in planned if item.reason is None]
    assert reused == ["teacher", "student", "outputs", "distill"]
    assert chosen["accuracy"] == max(point["accuracy"] for point in document["timed"][1:])


def test_exported_students_take_part_and_train_nothing_again(
    finished, place, small_data, tmp_path, monkeypatch
):
    folder, *_, document = finished
    copy = tmp_path / "sweep"
    shutil.copytree(folder, copy)
    monkeypatch.chdir(place)
    flags = ["--trials", "4", "--set", "export.max_drop=[accuracy=1]", "-o", copy, "--json"]
    done = in_process(place, *flags)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert [trial["state"] for trial in result["trials"]] == [
        trial["state"] for trial in document["trials"]
    ]
    trained = [point["name"] for point in document["timed"] if point["name"] != "teacher"]
    exported = {point["name"]: point for point in result["timed"] if point["exported_from"]}
    assert {*exported} == {f"{name}-int8" for name in trained}
    for name, point in exported.items():
        trial = copy / name.removesuffix("-int8").replace(" ", "-")
        file = trial / "student/onnx/model_quantized.onnx"
        (measured,) = kdcli.evaluate(
            [file], data=small_data, label="intent", splits=["validation"]
        ).metrics.values()
        assert point["accuracy"] == measured["validation"]["accuracy"]
    assert any(point["exported_from"] for point in result["frontier"])


def test_finished_sweep_trains_and_times_nothing(finished, place, monkeypatch):
    monkeypatch.chdir(place)
    again = in_process(place, "--trials", 4, "--json")
    assert json.loads(again.stdout) == finished[3]
    assert "trial" not in again.stderr
    assert "measure" not in again.stderr


@pytest.mark.parametrize("within", [True, False])
def test_target_chooses_the_cheapest_student_that_reaches_it(finished, place, within, monkeypatch):
    monkeypatch.chdir(place)
    points = finished[3]["frontier"]
    lowest = min(point["accuracy"] for point in points)
    target = lowest if within else 0.9999
    done = in_process(place, "--trials", 4, "--json", "--target", f"accuracy={target}")
    document = json.loads(done.stdout)
    if within:
        assert done.exit_code == 0, done.stderr
        sizes = [point["megabytes"] * point["latency_ms"] for point in points]
        assert document["chosen"]["name"] == points[sizes.index(min(sizes))]["name"]
    else:
        assert done.exit_code == 1
        assert document["chosen"] is None
        assert "under 0.9999" in done.stderr
        assert not (finished[0] / "best.yaml").exists()


def test_plot_is_self_contained(finished):
    picture = (finished[0] / "frontier.svg").read_text()
    assert "var(--" not in picture
    assert "Validation accuracy" in picture
    assert all(f">{point['name']}<" in picture for point in finished[3]["frontier"])


def test_another_recipe_is_refused_in_the_same_folder(finished, place):
    done = in_process(place, "-o", finished[0], "--set", "distill.epochs=3")
    assert done.exit_code == 2
    assert "distill.epochs was 2, is 3" in done.stderr


def test_two_workers_and_a_second_command_share_the_trials(place):
    arguments = ("--trials", "4", "-o", "shared", "--json")
    with start(place, *arguments, "--workers", "2") as one, start(place, *arguments) as other:
        said = [process.communicate() for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], said
    documents = [json.loads(out) for out, _ in said]
    assert [trial["number"] for trial in documents[0]["trials"]] == [0, 1, 2, 3]
    assert documents[0]["trials"] == documents[1]["trials"]
    assert sum(err.count("teacher: done") for _, err in said) == 1
    with sqlite3.connect(place / "shared/sweep.db") as database:
        states = [state for (state,) in database.execute("select state from trials")]
    assert set(states) <= {"COMPLETE", "PRUNED"}


def test_ctrl_c_ends_the_workers_and_hints_at_resuming(place):
    long = ("--set", "distill.epochs=500", "--trials", "9", "--workers", "2", "-o", "stopped")
    with start(place, *long) as process:
        for line in process.stderr:
            if line.startswith("trial") and " of 4,000" in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130, said
    assert "Run the same command again" in said
    assert "Traceback" not in said
    with sqlite3.connect(place / "stopped/sweep.db") as database:
        running = list(database.execute("select number from trials where state = 'RUNNING'"))
    assert 1 <= len(running) <= 2
    for (number,) in running:
        # Nobody is at it any more.
        FileLock(place / f"stopped/.trial-{number}.lock").acquire(blocking=False)


def test_untrainable_hyperparameters_fail_one_trial(place):
    rates = "sweep={distill.learning_rate: [0.001, 1.0e+30]}"
    done = in_process(place, "-o", place / "wild", "--trials", 4, "--set", rates, "--json")
    assert done.exit_code == 0, done.output
    found = {
        (trial["settings"]["distill.learning_rate"], trial["state"])
        for trial in json.loads(done.stdout)["trials"]
    }
    assert found <= {(0.001, "done"), (0.001, "pruned"), (1e30, "failed")}
    assert (0.001, "done") in found


MISTAKES = {
    "sweep.distill.learning_rat=[1]": "Did you mean learning_rate?",
    "sweep.distill.learning_rate=3": "must be a list of values, or a range",
    "sweep.distill.learning_rate={low: 1.0, high: 0.1}": "not below high",
    "sweep.distill.learning_rate={low: 0.0, high: 0.1, log: true}": "log: true",
    "sweep.distill.epochs={low: 1.0, high: 4.0}": "must be a valid integer, not 2.854",
    "sweep.distill.losses.7.weight=[1.0]": "there are 2 items, counted from 0, not 7",
    "sweep.student.num_hidden_layers=[]": "must have at least 1 item",
    "sweep.student.keep_layers=[[0, 1]]": "takes one of drop_every, keep_layers, "
    "num_hidden_layers, model",
    "sweep.teacher.model=[a, b]": "teacher.model can't vary",
    "sweep=[]": "must be keys and their values",
}


@pytest.mark.parametrize("wrong", MISTAKES)
def test_invalid_search_space_is_refused(place, wrong):
    with pytest.raises(RecipeError, match=r"sweep") as refused:
        load_recipe(str(place / "recipe.yaml"), [wrong])
    assert MISTAKES[wrong] in str(refused.value)


def test_impossible_student_is_refused_before_any_work(place, refuses):
    said = refuses(
        "sweep", place / "recipe.yaml", "--set", "sweep.student.num_hidden_layers=[2, 9]", "-o", "x"
    )
    assert "9" in said
    assert "4 layers" in said


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("0.9", "--target 0.9"),
        ("macro_f1=0.9", "--target macro_f1=0.9"),
        ("test.accuracy=0.9", "--target test.accuracy=0.9"),
    ],
)
def test_invalid_target_is_refused_before_any_work(place, refuses, target, says):
    assert says in refuses("sweep", place / "recipe.yaml", "--target", target)


def test_damaged_database_is_refused(place, tmp_path):
    (tmp_path / "sweep.db").write_bytes(b"nothing of the sort" * 99)
    done = in_process(place, "-o", tmp_path)
    assert done.exit_code == 2
    assert "sweep.db can't be read as a sweep" in done.stderr
    assert "Internal error in kd" not in done.stderr


def test_missing_optuna_names_the_extra(place, refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'kdcli[sweep]'" in refuses("sweep", place / "recipe.yaml")


def test_a_dry_run_tells_trials_and_time_and_leaves_nothing(place, tmp_path):
    arguments = ("--trials", "7", "--minutes", "3", "--output", tmp_path / "sweep", "--dry-run")
    document = json.loads(in_process(place, *arguments, "--json").stdout)
    assert document["trials"] == 7
    assert document["seconds_per_trial"] > 0
    assert document["seconds_before_trials"] > 0
    assert list(document["space"]) == ["distill.learning_rate", "student.num_hidden_layers"]
    shown = in_process(place, *arguments).stdout
    assert "Trials: 7, " in shown
    assert "3 min" in shown
    assert max(map(len, shown.splitlines()[2:])) <= 80
    assert not (tmp_path / "sweep").exists()


def test_the_table_fits_80_columns_and_hyperparameters_follow(finished, place):
    shown = in_process(place, "--trials", "4", "--output", finished[0]).stdout
    table, _, settings = shown.partition("Chosen: ")
    assert max(map(len, table.splitlines())) <= 80
    assert "latency, median" in table
    assert "learning_rate" in settings


def test_default_space_follows_losses_and_teacher_depth(place):
    recipe = load_recipe(str(place / "recipe.yaml")).model_copy(update={"sweep": None})
    usual = search_space.default_or_stated_space(recipe.with_default_losses(SINGLE_LABEL), 12)
    assert usual["student.num_hidden_layers"] == (3, 4, 6, 8)
    assert list(usual) == [
        "distill.learning_rate", "distill.losses.0.temperature", "distill.losses.0.weight",
        "student.num_hidden_layers",
    ]  # fmt: skip
    for key, values in usual.items():
        for value in (values.low, values.high) if key.startswith("distill") else values:
            recipe_for_trial(recipe, {key: value})


def test_model_choices_are_relative_to_the_recipe_file(place, tmp_path, tiny_backbone):
    (tmp_path / "small").symlink_to(tiny_backbone)
    written = json.loads((place / "recipe.yaml").read_text())
    written["sweep"] = {"student.model": ["./small", "some/where"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
    choices = load_recipe(str(tmp_path / "recipe.yaml")).sweep["student.model"]
    assert choices == (str(tiny_backbone.resolve()), "some/where")


SMALL, LARGE = StaticCosts(1, 10, 10.0), StaticCosts(2, 20, 20.0)


def tried(number, accuracy, shape=SMALL, epochs=None):
    return Trial(number, "done", {}, shape, epochs or {1: accuracy}, accuracy)


def test_trial_is_compared_with_no_larger_students_only():
    smaller = [tried(n, 0.5 + n / 100) for n in range(4)]
    larger = [replace(trial, shape=LARGE, number=trial.number + 4) for trial in smaller]
    own = Trial(9, "running", {}, SMALL, {1: 0.5})
    assert trials.should_prune(own, 1, 0.5, smaller)
    assert not trials.should_prune(own, 1, 0.5, larger)
    assert trials.should_prune(replace(own, shape=LARGE), 1, 0.5, smaller)
    assert not trials.should_prune(own, 1, 0.53, smaller)
    assert not trials.should_prune(own, 1, 0.1, smaller[:3]), "too few to know"
    assert not trials.should_prune(own, 2, 0.1, smaller), "none of them got so far"


def test_non_dominated_trials():
    found = [
        tried(0, 0.8),
        tried(1, 0.9),
        tried(2, 0.9),
        tried(3, 0.9, LARGE),
        tried(4, 0.95, LARGE),
    ]
    found.append(Trial(5, "pruned", {}, SMALL))
    assert [trial.number for trial in trials.non_dominated_trials(found)] == [1, 4]


def test_pareto_frontier_tolerates_latency_noise_only():
    points = {
        p.name: p
        for p in (
            TimedModel("teacher", 0.95, 10.0, 100.0, 1),
            TimedModel("a", 0.90, 5.0, 50.0, 1),
            TimedModel("b", 0.89, 4.9, 50.0, 1),
            TimedModel("c", 0.88, 4.0, 60.0, 1),
            TimedModel("d", 0.87, 6.0, 40.0, 1),
            TimedModel("e", 0.86, 6.0, 45.0, 1),
        )
    }
    best = pareto.pareto_frontier(points)
    assert [point.name for point in best] == ["a", "c", "d"]
    assert pareto.choose_student(best, None).name == "a"
    assert pareto.choose_student(best, 0.88).name == "c"
    assert pareto.choose_student(best, 0.91) is None


def test_fresh_refuses_while_a_worker_runs(tmp_path):
    (tmp_path / "trial-1").mkdir()
    (tmp_path / "sweep.db").touch()
    with FileLock(tmp_path / ".trial-1.lock"), pytest.raises(UsageError, match="running in"):
        optuna_storage.delete_sweep_files(tmp_path)
    assert (tmp_path / "trial-1").is_dir()
    optuna_storage.delete_sweep_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == []


def test_study_works_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "a ?b#c%20d&e=f"
    folder.mkdir()
    varies = {"distill.epochs": (1, 2)}
    optuna_storage.SweepStudy(folder, varies, 0).start_or_resume({"a": 1}, {})
    again = optuna_storage.SweepStudy(folder, varies, 0)
    claim = again.claim_trial(1)
    assert (folder / "sweep.db").stat().st_size
    assert claim.hyperparameters["distill.epochs"] in (1, 2)
    assert again.claim_trial(1) is None, "the only trial is at work"
    claim.lock.release()
    taken_up = again.claim_trial(1)
    assert taken_up.hyperparameters == claim.hyperparameters
    again.prune_or_fail_trial(taken_up, "it is bad")
    assert [(t.state, t.why) for t in again.trials()] == [("failed", "it is bad")]


def test_search_space_survives_yaml(place):
    recipe = load_recipe(str(place / "recipe.yaml"))
    assert config_from_flags(Recipe, [], recipe.model_dump(mode="json")) == recipe


def test_parse_target():
    assert pareto.parse_target("validation.accuracy=0.5").limit == 0.5
    with pytest.raises(UsageError):
        pareto.parse_target("accuracy.low=0.5")
