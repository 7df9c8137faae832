"""`kd init` asks five questions and writes the recipe that they describe."""

import pytest
from typer.testing import CliRunner

from kdcli.cli import init as init_module
from kdcli.cli.app import app
from kdcli.recipe.loading import load_recipe


class Terminal:
    """Stands for a standard stream of a terminal."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def isatty(self):
        return True


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (f"how do I pay for thing {i},{('fee', 'card')[i % 2]}\n" for i in range(40))
    (tmp_path / "texts.csv").write_text("message,intent\n" + "".join(lines))
    return tmp_path / "texts.csv"


@pytest.fixture
def answer(monkeypatch):
    """Run `kd init`, with a line of standard input for each question, as in a terminal."""

    class System:
        def __getattr__(self, name):
            import sys

            stream = getattr(sys, name)
            return Terminal(stream) if name in ("stdin", "stderr") else stream

    def run(*lines, arguments=()):
        monkeypatch.setattr(init_module, "sys", System())
        answers = "".join(f"{line}\n" for line in lines)
        return CliRunner().invoke(app, ["init", *map(str, arguments)], input=answers)

    return run


def test_enter_takes_each_guess(texts, answer, tiny_backbone):
    done = answer("texts.csv", tiny_backbone, "", "", "")
    assert done.exit_code == 0, done.output
    recipe = load_recipe(str(texts.with_suffix(".yaml")))
    assert (recipe.data.text, recipe.data.label) == ("message", "intent")
    assert recipe.teacher.model == str(tiny_backbone)
    assert recipe.student.drop_every == 2
    assert recipe.export is None
    assert "Next: kd distill texts.yaml" in done.stdout


@pytest.mark.parametrize(("aim", "every", "exported"), [("fast", 2, True), ("accurate", 3, False)])
def test_the_aim_chooses_the_student(texts, answer, tiny_backbone, aim, every, exported):
    done = answer(tiny_backbone, "", "", "tiny?", aim, arguments=["texts.csv"])
    assert done.exit_code == 0, done.output
    recipe = load_recipe(str(texts.with_suffix(".yaml")))
    assert recipe.student.drop_every == every
    assert (recipe.export is not None) == exported


def test_a_wrong_column_is_asked_for_again(texts, answer, tiny_backbone):
    done = answer("texts.csv", tiny_backbone, "body", "", "message", "intent", "")
    assert done.exit_code == 0, done.output
    assert "there is no column body" in done.stderr
    assert load_recipe(str(texts.with_suffix(".yaml"))).data.text == "message"


def test_without_an_answer_nothing_is_written(texts, answer, tiny_backbone):
    done = answer("texts.csv", tiny_backbone)
    assert done.exit_code == 130
    assert not texts.with_suffix(".yaml").exists()


def test_without_a_terminal_it_names_the_other_command(texts):
    done = CliRunner().invoke(app, ["init", "texts.csv"])
    assert done.exit_code == 2
    assert "kd recipe new" in done.stderr
