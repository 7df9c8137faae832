"""Every way to write a recipe wrong: one sentence with file, line and key, and nothing written."""

import re

import pytest

from kdcli.recipe.loading import load_recipe

GOOD = "name: mine\ndata:\n  dataset: owner/texts\nteacher:\n  model: owner/model\n"
TEACHER = "name: x\ndata: {dataset: a/b}\nstudent: {model: a/b}\nteacher: {%s}\n"
LOSSES = GOOD + "distill: {losses: [%s]}\n"
BOMB = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else 'lol'}]\n" for i in range(9))
LONG = "a" * 300

WRONG = {
    "empty": ("", ": is empty. Start from one that works: kd recipe list."),
    "only a comment": ("# nothing\n", ": is empty"),
    "a list": ("- a\n", ": holds no keys"),
    "a word": ("recipe\n", ": holds no keys"),
    "not YAML": ("name: {a: [}\n", ":1: is not YAML"),
    "two documents": (GOOD + "---\n" + GOOD, ":6: is not YAML"),
    "a tab that indents": (GOOD + "distill:\n\tepochs: 1\n", ":7: is not YAML: .*spaces"),
    "a tab between": (GOOD + "seed:\t1\n", ":6: is not YAML"),
    "a bomb": (BOMB, ":1: has aliases"),
    "an alias to itself": ("a: &a [*a]\n", ":1: has aliases"),
    "an alias to nothing": ("a: *b\n", ":1: is not YAML: found undefined alias"),
    "depth": ("a: " + "[" * 5000 + "]" * 5000, ":1: is nested more than 32 levels deep"),
    "length": ("- a\n" * 200_000, ":19999: more than 20,000 values"),
    "10 MB": ("#" * 10_000_000, ": is larger than 1,000,000 bytes"),
    "Latin-1": (GOOD.encode() + b"# caf\xe9\n", ":6: is not UTF-8 text. Save it as UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), ":1: is not UTF-8 text. Save it as UTF-8"),
    "a NUL": (GOOD + "# \0\n", ":6: is not YAML: it holds the character U.0000. Delete it."),
    "half a character": (GOOD + 'card: {license: "\\ud800"}\n', ":6: holds half a character"),
    "a Python object": (GOOD + "seed: !!python/object/apply:os.getcwd []\n",
                        ":6: has the tag !!python/object/apply:os.getcwd"),
    "a tag for text": (GOOD + "seed: !!str 5\n", ":6: has the tag !!str"),
    "a tag for nothing": (GOOD + "seed: ! 5\n", ":6: has the tag !;"),
    "a key twice": (GOOD + "seed: 1\nseed: 2\n", ":7: seed .*line 6"),
    "an unknown key": (GOOD + "sede: 1\n", ":6: sede is not a key .* Did you mean seed?"),
    "one deep down": (LOSSES % "{kind: soft_targets, temprature: 4}",
                      ":6: distill.losses.0.temprature is not a key .* Did you mean temperature?"),
    "one for nothing known": (GOOD + "x: 1\n", ":6: x is not a key .* Known here: name, seed,"),
    "a key of two lines": (GOOD + '"a\\nb": 1\n', r":6: a\\nb is not a key"),
    "that key twice": (GOOD + '"a\\nb": 1\n"a\\nb": 2\n', r":7: a\\nb .*line 6"),
    "a key of no end": (GOOD + f"? {'a' * 9000}\n: 1\n", ":6: aaa.* is not a key"),
    "a list for a key": (GOOD + "[a]: 1\n", ":6: a key must be a word"),
    "a key missing": ("name: mine\ndata: {}\n", ":2: data.dataset is missing.* .and 1 more"),
    "a text for a number": (GOOD + "seed: abc\n", ":6: seed must be a valid integer, not 'abc'"),
    "a list for a number": (GOOD + "seed: [1]\n", ":6: seed must be a valid integer"),
    "a fraction": (GOOD + "seed: 1.5\n", ":6: seed must be a valid integer, not 1.5"),
    "a long number": (GOOD + f"seed: {'9' * 5000}\n", ":6: seed must be a number of fewer digits"),
    "a truth for a number": (GOOD + "seed: true\n", ":6: seed can't be true or false"),
    "one for a fraction": (GOOD + "distill:\n  warmup_ratio: false\n",
                           ":7: distill.warmup_ratio can't be"),
    "one in a list": (GOOD + "student: {keep_layers: [true]}\n",
                      ":6: student.keep_layers.0 can't be true"),
    "no for a rate": (GOOD + "distill: {learning_rate: off}\n", ":6: distill.learning_rate"),
    "infinity": (GOOD + "distill: {learning_rate: 1e999}\n", ":6: .*must be a finite number"),
    "a number for a text": (GOOD + "card: {license: 5}\n",
                            ":6: card.license must be a valid string, not 5. Quote it"),
    "nothing for a text": (GOOD + "card: {license: null}\n", ":6: card.license .* not null"),
    "a list for keys": ("name: x\ndata: [a]\nteacher: {model: a/b}\n",
                        ":2: data must be keys and their values, not ..a.."),
    "nothing for keys": ("name: x\ndata:\nteacher: {model: a/b}\n", ":2: data must be keys"),
    "keys for a list": (GOOD + "distill: {losses: {kind: soft_targets}}\n",
                        ":6: distill.losses must be a list, not a mapping"),
    "a word for a loss": (LOSSES % "soft_targets", ":6: distill.losses.0 must be keys and their"),
    "keys for a text": (GOOD.replace("texts\n", "texts\n  text: {a: b}\n"),
                        ":4: data.text must be a valid string, not a mapping"),
    "three columns": (GOOD.replace("texts\n", "texts\n  text: [a, b, c]\n"),
                      ":4: data.text must have at most 2 items"),
    "a negative seed": (GOOD + "seed: -1\n", ":6: seed must be greater than or equal to 0, not -1"),
    "negative epochs": (GOOD + "distill: {epochs: -1}\n", ":6: distill.epochs must be greater"),
    "a batch of 0": (GOOD + "distill: {batch_size: 0}\n", ":6: distill.batch_size must be greater"),
    "temperature 0": (LOSSES % "{kind: soft_targets, temperature: 0}",
                      ":6: distill.losses.0.temperature must be greater than 0"),
    "no loss": (LOSSES % "", ":6: distill.losses must have at least 1 item"),
    "an unknown loss": (LOSSES % "{kind: dark}", ":6: .*kind: .*cross_entropy"),
    "weights all 0": (LOSSES % "{kind: cross_entropy, weight: 0}", ":6: .*weights are all 0"),
    "one beta": (GOOD + "distill: {betas: [0.9]}\n", ":6: distill.betas has too few items: .0.9."),
    "no split": (GOOD + "evaluate: {splits: []}\n", ":6: evaluate.splits must have at least 1"),
    "no data set": (GOOD.replace("owner/texts", "''"), ":3: data.dataset must have at least 1"),
    "layers out of order": (GOOD + "student: {keep_layers: [2, 1]}\n",
                            ":6: student .*rising order"),
    "two ways to cut": (GOOD + "student: {keep_layers: [0], drop_every: 2}\n",
                        ":6: student takes one of drop_every, keep_layers, num_hidden_layers"),
    "an unknown teacher": (TEACHER % "kind: zero_shto",
                           ":4: teacher has an unknown kind: 'zero_shto'. Did you mean zero_shot?"),
    "an unknown key of one": (TEACHER % "kind: scores, fiel: x.csv",
                              ":4: teacher.fiel is not a key .* Did you mean file?"),
    "one of another teacher's": (TEACHER % "model: a/b, ensemble_with: [{model: c/d, wieght: 2}]",
                                 ":4: teacher.ensemble_with.0.wieght is not .*mean weight?"),
    "no place for the label": (TEACHER % "kind: zero_shot, model: a/b, hypothesis_template: x",
                               ":4: teacher.hypothesis_template .*label"),
    "a password in an address": (TEACHER % "kind: endpoint, model: m, url: 'https://u:p@x/v1'",
                                 ":4: teacher.url is not a URL .*password"),
    "a ceiling and no price": (TEACHER % "kind: endpoint, model: m, url: 'https://x', max_cost: 3",
                                  ":4: teacher .*max_cost.*price_per_million_tokens"),
    "no function": (TEACHER % "kind: function, function: os.system", ":4: teacher.function is no"),
    "nothing to cut": ("name: x\ndata: {dataset: a/b}\nteacher: {kind: precomputed, file: x.csv}\n",
                       ":1: .* teacher of kind precomputed .*student.model"),
    "a name with a slash": ("name: a/b\n" + GOOD[11:], ":1: name must .*letters"),
    "a long name": (f"name: {LONG}\n" + GOOD[11:], ":1: name must have at most 96 characters"),
}  # fmt: skip

PATHS = {
    "a stranger's home": (
        "~nosuchuser/x",
        "~nosuchuser/x: .* no such user. Write the",
    ),
    "a long name": (LONG, f"{LONG} is too long for a path"),
    "a long path": (f"./{LONG}", ".*a is too long for a path"),
    "a NUL": ('"./a\\0b"', r"\./a\\x00b: a path can't contain this character"),
    "a link to itself": ("./loop", "./loop is a link to itself"),
}
SOURCES = {
    "data.dataset": (GOOD.replace("owner/texts", "%s"), 3),
    "teacher.model": (GOOD.replace("owner/model", "%s"), 5),
    "student.model": (GOOD + "student:\n  model: %s\n", 7),
}


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_sentence_with_its_place(refuses, recipe, text, says):
    path = recipe(text)
    said = refuses("recipe", "check", path)
    assert re.match(re.escape(str(path)) + says, said), said
    assert len(said) < 2500
    assert refuses("distill", path) == said


@pytest.mark.parametrize(("path", "says"), PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("key", SOURCES)
def test_what_can_t_be_a_path_is_said_with_its_key(refuses, recipe, tmp_path, key, path, says):
    (tmp_path / "loop").symlink_to("loop")
    text, line = SOURCES[key]
    file = recipe(text % path)
    said = refuses("recipe", "check", file)
    assert re.match(f"{re.escape(str(file))}:{line}: {key}: {says}", said), said


@pytest.mark.parametrize(
    "command",
    [
        ["recipe", "check", "~nosuchuser/recipe.yaml"],
        ["distill", "~nosuchuser/recipe.yaml"],
        ["distill", "quickstart", "--set", "data.dataset=~nosuchuser/x"],
        ["init-student", "~nosuchuser/model"],
        ["evaluate", "~nosuchuser/model", "--data", "owner/texts"],
        ["evaluate", "owner/model", "--data", "~nosuchuser/texts"],
    ],
    ids=" ".join,
)
def test_a_stranger_s_home_is_said_wherever_a_path_is_written(refuses, command):
    assert "~nosuchuser" in refuses(*command)


def test_what_is_no_file_is_said(refuses, tmp_path):
    assert refuses("recipe", "check", tmp_path) == (
        f"{tmp_path} is a folder, not a recipe. Name a YAML file."
    )
    said = refuses("distill", "clinc_pls")
    assert said.startswith(
        "There is no recipe clinc_pls: neither a file nor one of ag_news, banking77, clinc_best"
    )
    assert said.endswith("Did you mean clinc_plus?")
    assert "too long for a path" in refuses("recipe", "check", LONG)


@pytest.mark.parametrize(
    "text", ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.encode("utf-8-sig")]
)
def test_a_byte_order_mark_and_windows_line_ends_are_fine(recipe, text):
    assert load_recipe(str(recipe(text))).name == "mine"


@pytest.mark.parametrize("rate", ["2e-5", "'2e-5'", "2.0e-5", "0.00002", "2E-5"])
def test_a_number_may_be_written_as_people_write_it(recipe, rate):
    text = GOOD + f"distill:\n  learning_rate: {rate}\n"
    assert load_recipe(str(recipe(text))).distill.learning_rate == 2e-5
