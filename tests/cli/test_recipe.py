"""`kd recipe`: find, show, copy and check."""

import json

import helpers
import pytest

from kdcli.recipe.loading import load_recipe
from kdcli.recipe.recipe_lookup import shipped_recipe_paths


def kd(*arguments):
    done = helpers.kd("recipe", *arguments)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_list_has_a_line_for_each_recipe_and_what_it_is_for():
    lines = kd("list").splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipe_paths())
    assert all(len(line.split()) > 4 for line in lines)
    assert [row["name"] for row in json.loads(kd("list", "--json"))] == list(shipped_recipe_paths())


@pytest.mark.parametrize("name", shipped_recipe_paths())
def test_what_is_shown_is_a_recipe_again(name, tmp_path):
    (tmp_path / "shown.yaml").write_text(kd("show", name))
    assert load_recipe(str(tmp_path / "shown.yaml")) == load_recipe(name)


def test_what_is_shown_has_the_overrides_in_it():
    shown = json.loads(kd("show", "clinc_plus", "--set", "seed=7", "--set", "data.config=null",
                          "--json"))  # fmt: skip
    assert (shown["seed"], shown["data"]["config"]) == (7, None)


def test_a_copy_can_be_changed_and_checked(tmp_path):
    said = kd("copy", "quickstart", tmp_path / "mine.yaml")
    assert said.startswith(str(tmp_path / "mine.yaml"))
    assert "valid recipe for kd-quickstart" in kd("check", tmp_path / "mine.yaml")
    assert json.loads(kd("check", tmp_path / "mine.yaml", "--json"))["valid"] is True


def test_the_schema_is_json_and_nothing_else():
    schema = json.loads(kd("schema"))
    assert set(schema["required"]) == {"name", "data", "teacher"}
    assert schema["additionalProperties"] is False
    assert schema["properties"]["seed"]["description"]
