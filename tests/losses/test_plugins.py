"""Losses from outside the package: entry points, and classes that a recipe names."""

import json
import sys
from importlib.metadata import EntryPoint

import helpers
import pytest
from pydantic import TypeAdapter

from kdcli import losses, plugins
from kdcli.errors import RecipeError, UsageError, UserError
from kdcli.losses.base import check_losses_for_task
from kdcli.recipe.loading import load_recipe
from kdcli.tasks import REGRESSION, SINGLE_LABEL

CODE = """
from typing import Literal
from kdcli.losses.base import Loss

class Huber(Loss):
    needs = frozenset({"logits"})
    kind: Literal["huber"] = "huber"
    delta: float = 1.0

    def forward(self, student_outputs, teacher_outputs, labels):
        import torch.nn.functional as F
        return F.huber_loss(student_outputs.logits, teacher_outputs.logits, delta=self.delta)

class NoLoss:
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module `my_losses` that lies in the working folder."""
    (tmp_path / "my_losses.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "my_losses"
    sys.modules.pop("my_losses", None)
    plugins.set_code_allowed(False)


@pytest.fixture
def installed(package, monkeypatch):
    """The same module as an installed package that offers plugins."""
    monkeypatch.syspath_prepend(".")
    offers = {"huber": "Huber", "none": "NoLoss", "broken": "Missing", "gone": "x"}
    points = [
        EntryPoint(name, f"{'absent' if name == 'gone' else package}:{target}", "kdcli.losses")
        for name, target in offers.items()
    ]

    def entry_points(group, name=None):
        return [p for p in points if p.group == group and name in (None, p.name)]

    monkeypatch.setattr(plugins, "entry_points", entry_points)


def validate(**values):
    return TypeAdapter(losses.AnyLoss).validate_python(values)


def test_every_built_in_loss_is_found_by_its_kind():
    for kind, loss_class in losses.BUILT_IN_LOSSES.items():
        loss = validate(kind=kind)
        assert type(loss) is loss_class
        assert getattr(losses, loss_class.__name__) is loss_class
        assert loss.needs or kind in ("cross_entropy", "labels_mse")


def test_an_installed_package_offers_a_loss(installed):
    loss = validate(kind="huber", delta=2.0, weight={"start": 1, "end": 0})
    assert (type(loss).__name__, loss.delta, loss.at(0.5).weight) == ("Huber", 2.0, 0.5)
    assert TypeAdapter(losses.AnyLoss).dump_python(loss)["delta"] == 2.0
    assert "huber" in losses.loss_kinds()
    with pytest.raises(ValueError, match="delta"):
        validate(kind="huber", delta="much")


@pytest.mark.parametrize("kind", ["none", "broken", "gone"])
def test_a_plugin_that_is_no_loss_is_a_user_error(installed, kind):
    with pytest.raises(UserError, match=kind) as caught:
        validate(kind=kind)
    assert caught.value.exit_code == 2


def test_a_class_is_imported_only_with_permission(package):
    with pytest.raises(UsageError, match="my_losses:Huber") as caught:
        validate(kind="my_losses:Huber")
    assert "--allow-code" in caught.value.hint
    plugins.set_code_allowed(True)
    loss = validate(kind="my_losses:Huber", delta=3)
    dumped = TypeAdapter(losses.AnyLoss).dump_python(loss, mode="json")
    assert dumped["kind"] == "my_losses:Huber"
    assert validate(**json.loads(json.dumps(dumped))) == loss
    for reference in ("my_losses:NoLoss", "my_losses:Missing", "absent:Huber"):
        with pytest.raises(UserError, match=reference):
            validate(kind=reference)


def test_a_recipe_names_a_loss_of_a_package(installed, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\ndata: {dataset: texts.csv}\nteacher: {model: m}\n"
        "distill: {losses: [{kind: huber, delta: 3}, {kind: cross_entropy}]}\n"
    )
    (tmp_path / "texts.csv").write_text("text,label\na,b\n")
    loaded = load_recipe(str(recipe))
    assert loaded.distill.losses[0].delta == 3
    assert loaded.model_dump(mode="json")["distill"]["losses"][0]["delta"] == 3
    recipe.write_text(recipe.read_text().replace("huber", "hubber"))
    with pytest.raises(RecipeError, match=r"distill\.losses.*kind.*hubber.*mean huber"):
        load_recipe(str(recipe))


def test_a_loss_that_does_not_serve_the_task_is_refused_with_the_reason():
    check_losses_for_task([losses.SoftTargets()], SINGLE_LABEL)
    with pytest.raises(RecipeError, match=r"soft_targets.*probabilities") as caught:
        check_losses_for_task([losses.SoftTargets()], REGRESSION)
    assert "labels_mse" in caught.value.hint


@pytest.mark.parametrize(
    "command",
    ["recipe show", "recipe check", "data check", "sweep", "init-student", "evaluate", "card"],
)
def test_every_command_that_reads_a_recipe_can_allow_code(package, tmp_path, command):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: mine\ndata: {dataset: absent.csv}\nteacher: {model: ./absent}\n"
        "distill: {losses: [{kind: 'my_losses:Huber'}]}\n"
    )
    reference = tmp_path if command in ("evaluate", "card") else recipe
    refused = helpers.kd(*command.split(), reference)
    assert refused.exit_code == 2
    assert "--allow-code" in refused.stderr
    allowed = helpers.kd(*command.split(), reference, "--allow-code")
    assert "--allow-code" not in allowed.stderr
    # The others, `recipe check` among them, miss the data.
    assert (allowed.exit_code == 0) == (command == "recipe show")
