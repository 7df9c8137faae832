"""Teachers of other packages: found by an entry point, or by `package.module:Name`."""

import sys

import pytest

from kdcli import plugins
from kdcli.errors import RecipeError, UsageError
from kdcli.recipe.loading import config_from_flags, dump_recipe, load_recipe
from kdcli.recipe.schema import Recipe

MODULE = """
from typing import Literal

import numpy as np

from kdcli.recipe.black_box_teachers import BlackBoxTeacher
from kdcli.teachers.logit_conversion import convert_to_logits


class KeywordTeacher(BlackBoxTeacher):
    kind: Literal["keywords"] = "keywords"
    certainty: float
    template: str = ""

    def create_predictor(self, context):
        labels, task = context.dataset_splits.label_names, context.dataset_splits.task

        def predict(split, advance):
            rest = (1 - self.certainty) / (len(labels) - 1)
            probabilities = [[self.certainty if label in text.split() else rest for label in labels]
                             for text in split["text"]]
            advance(len(split), len(split))
            return convert_to_logits(np.array(probabilities), "probabilities", task)

        return predict
"""
TEACHER = {"kind": "keywords", "certainty": 0.9, "template": "its own key"}


def recipe_of(*overrides):
    values = {"name": "x", "data": {"dataset": "some/data"}, "teacher": dict(TEACHER),
              "student": {"model": "a/b"}}  # fmt: skip
    return config_from_flags(Recipe, overrides, values)


@pytest.fixture
def keyword_module(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "keyword_teacher.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("keyword_teacher", None)
    plugins.set_code_allowed(False)


@pytest.fixture
def keyword_package(keyword_module):
    about = keyword_module / "keyword_teacher-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: keyword-teacher\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[kdcli.teachers]\nkeywords = keyword_teacher:KeywordTeacher\n"
    )


def test_student_learns_from_a_teacher_of_an_installed_package(distilled, keyword_package):
    run, models = distilled(TEACHER)
    assert models["teacher"]["accuracy"] > 0.9
    assert models["student"]["agreement"] > 0.9
    assert load_recipe(str(run.path / "recipe.yaml")).teacher.certainty == 0.9


def test_keys_of_a_plugin_are_checked_and_keep_their_names(keyword_package):
    recipe = recipe_of()
    assert recipe.teacher.template == "its own key"
    assert "certainty: 0.9" in dump_recipe(recipe)
    with pytest.raises(RecipeError, match=r"teacher\.certainty"):
        recipe_of("teacher.certainty=high")


def test_an_unknown_kind_is_refused_with_the_kinds_of_plugins(keyword_package):
    with pytest.raises(RecipeError) as refused:
        recipe_of("teacher.kind=nothing")
    assert all(kind in str(refused.value) for kind in ("zero_shot", "keywords"))


def test_a_class_by_reference_needs_permission(keyword_module):
    reference = "teacher.kind=keyword_teacher:KeywordTeacher"
    with pytest.raises(UsageError, match="--allow-code"):
        recipe_of(reference)
    plugins.set_code_allowed(True)
    recipe = recipe_of(reference)
    assert recipe.teacher.kind == "keyword_teacher:KeywordTeacher"
    assert recipe.black_box_teacher is recipe.teacher
