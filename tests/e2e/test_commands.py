"""The command as a user runs it: in a pipe, twice, with a mistake, stopped half way."""

import json
import re
import signal

import forked
import pytest
from transformers import pipeline

from kdcli.recipe.recipe_lookup import shipped_recipes_folder

# Few of the unlabelled texts: all of them take minutes.
KEYS = (
    "teacher.fine_tune.epochs=1",
    "distill.epochs=1",
    "evaluate.latency_texts=5",
    "data.unlabeled=unlabeled.csv",
)
QUICK = [part for key in KEYS for part in ("--set", key)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    lines = (shipped_recipes_folder() / "quickstart-unlabeled.csv").read_text().splitlines()
    (folder / "unlabeled.csv").write_text("\n".join(lines[:301]) + "\n")
    return folder


@pytest.fixture(scope="module")
def kd(place):
    return lambda *arguments: forked.kd(*arguments, cwd=place)


@pytest.fixture(scope="module")
def quick(kd):
    """One pass over the quick start's data, with the real MiniLM."""
    done = kd("distill", "quickstart", *QUICK)
    assert done.returncode == 0, done.stderr
    return done


def test_the_quick_start_learns_and_says_so(quick, place):
    figures = json.loads((place / "runs/kd-quickstart/evaluation.json").read_text())
    teacher, student, exported = figures["models"]
    assert student["parameters"] < teacher["parameters"]
    assert exported["reference"] == "student"
    assert exported["name"] in quick.stdout
    assert student["splits"]["validation"]["accuracy"] > 3 / 17
    assert "validation, 180 texts" in quick.stdout
    assert "Next: kd card" in quick.stdout
    assert "Try it: kd predict" in quick.stdout


def test_a_pipe_gets_plain_lines(quick):
    for written, lines in ((quick.stdout, 10), (quick.stderr, 10)):
        assert written.count("\n") > lines
        assert all(line.isprintable() for line in written.split("\n"))


def test_the_student_needs_no_kd(quick, place, help_desk):
    run = place / "runs/kd-quickstart"
    classify = pipeline("text-classification", str(run / "student"))
    assert set(classify.model.config.id2label.values()) == set(help_desk["train"]["intent"])
    answers = classify([*help_desk["test"]["text"]])
    right = [a["label"] == n for a, n in zip(answers, help_desk["test"]["intent"], strict=True)]
    student = json.loads((run / "evaluation.json").read_text())["models"][1]
    assert student["splits"]["test"]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_the_same_command_again_trains_nothing(quick, kd, place):
    weights = place / "runs/kd-quickstart/student/model.safetensors"
    made = weights.stat()
    again = kd("distill", "quickstart", *QUICK)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("reused") == 11
    assert again.stdout == quick.stdout
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_the_plan_says_what_a_change_costs(quick, kd):
    done = kd(
        "distill", "quickstart", *QUICK, "--set", "distill.losses.0.temperature=4",
        "--dry-run", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    reused = [stage for stage in stages if stages[stage]["reused"]]
    assert reused == ["teacher", "student", "transfer", "outputs", "baselines"]
    assert stages["distill"]["reason"] == "distill.losses.0.temperature was 2, is 4"
    assert stages["distill"]["steps"] == 32
    assert stages["distill"]["seconds"] > 0


def test_any_model_is_measured_on_any_texts(quick, kd, place):
    texts = place / "mine.csv"
    texts.write_text("said,meant\nwhere is my parcel,track_order\nthe code fails,promo_code\n")
    done = kd(
        "evaluate", "runs/kd-quickstart/student", "--data", "mine.csv", "--text", "said",
        "--label", "meant", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["examples"] == {"test": 2}


def test_the_latest_run_gets_its_card_again(quick, kd, place):
    card = place / "runs/kd-quickstart/student/README.md"
    before = card.read_text()
    card.unlink()
    done = kd("card")
    assert done.returncode == 0, done.stderr
    assert card.read_text() == before


def test_ctrl_c_says_how_to_go_on(place):
    command = ["-m", "kdcli", "distill", "quickstart", "-o", "runs/stopped"]
    with forked.start(*command, cwd=place) as process:
        # In the middle of the training: a first part of its steps is done.
        line = next(line for line in process.stderr if re.match(r"teacher: [\d,]+ of ", line))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130, line + said
    assert "Run the same command again" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["evaluate", "x", "--fail-under", "accuracy"], "[SPLIT.]METRIC"),
        (["distill", "quickstart", "--set", "data.label=tag", "-o", "m"], "tag"),
    ],
    ids=["before any work", "in the data"],
)
def test_a_mistake_is_one_sentence_and_exit_2(kd, command, says):
    done = kd(*command)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
