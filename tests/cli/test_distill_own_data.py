"""`kd distill DATA` and `kd distill MODEL --data DATA`: a recipe is written beside the data."""

import pytest
from helpers import kd

import kdcli
from kdcli.errors import UsageError
from kdcli.recipe.loading import load_recipe


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def texts(tmp_path):
    """A CSV in another folder, with columns that say what they are."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = (f"how do I pay for thing {i},{('fee', 'card')[i % 2]}\n" for i in range(40))
    (folder / "texts.csv").write_text("message,intent\n" + "".join(lines))
    return folder / "texts.csv"


def planned(*arguments):
    done = kd("distill", *arguments, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    return done


def test_a_file_becomes_a_recipe_beside_it_that_is_planned(texts, tiny_backbone):
    done = planned(texts, "--teacher", tiny_backbone)
    assert "intent" in done.stderr
    assert "message" in done.stderr
    path = texts.with_suffix(".yaml")
    recipe = load_recipe(str(path))
    assert (recipe.data.text, recipe.data.label) == ("message", "intent")
    assert recipe.data.dataset == str(texts)
    assert recipe.teacher.model == str(tiny_backbone)
    assert recipe.teacher.fine_tune is not None


def test_a_recipe_that_was_edited_is_kept_and_used(texts, tiny_backbone):
    planned(texts, "--teacher", tiny_backbone)
    path = texts.with_suffix(".yaml")
    edited = path.read_text().replace("epochs: 5", "epochs: 7")
    path.write_text(edited)
    planned(texts, "--teacher", tiny_backbone)
    planned(texts)
    assert path.read_text() == edited
    done = kd("distill", texts, "--label", "message", "--dry-run")
    assert done.exit_code == 2
    assert "texts.yaml" in done.stderr
    assert path.read_text() == edited


def test_a_finished_classifier_needs_no_labels(tiny_teacher, tmp_path):
    (tmp_path / "texts.csv").write_text(
        "message\n" + "".join(f"how do I pay for thing {i}\n" for i in range(40))
    )
    done = planned(tiny_teacher, "--data", "texts.csv")
    assert "baseline" not in done.stdout
    recipe = load_recipe("texts.yaml")
    assert recipe.data.label is None
    assert recipe.data.text == "message"
    assert recipe.teacher.model == str(tiny_teacher)
    assert recipe.teacher.fine_tune is None


def test_a_column_of_other_labels_is_not_taken_for_the_teacher_s(tiny_teacher, texts):
    planned(tiny_teacher, "--data", texts)
    assert load_recipe(str(texts.with_suffix(".yaml"))).data.label is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quickstart", "--label", "x"], "--label"),
        (["nowhere.csv"], "nowhere.csv"),
        (["MODEL"], "--data"),
        (["MODEL", "--data", "x.csv", "--teacher", "y"], "--teacher y"),
    ],
)
def test_a_mistake_writes_nothing(refuses, tiny_teacher, arguments, says):
    model = str(tiny_teacher)
    assert says in refuses("distill", *(model if a == "MODEL" else a for a in arguments))


def test_the_python_function_distils_a_file_and_texts_for_a_model(texts, tiny_teacher, tmp_path):
    short = {"distill.epochs": 1, "evaluate.latency_texts": 2, "evaluate.baselines": []}
    run = kdcli.distill(tiny_teacher, data=texts, text="message", overrides=short)
    assert (tmp_path / "texts.yaml").is_file() or texts.with_suffix(".yaml").is_file()
    assert (run.student / "model.safetensors").is_file()
    labels = {each.label for each in kdcli.load(run.path).predict(["how do I pay"] * 2)}
    assert labels <= {*kdcli.load(tiny_teacher, device="cpu").labels}
    with pytest.raises(UsageError):
        kdcli.distill("quickstart", teacher="somewhere")
