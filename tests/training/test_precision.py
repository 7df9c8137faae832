"""Mixed precision: the forward pass in 16 bits, weights and losses in float32."""

import json

import pytest
import torch
from helpers import kd

import kdcli
from kdcli.errors import RecipeError
from kdcli.models import device, model_io
from kdcli.pipeline.planning import plan_stages
from kdcli.pipeline.run_folder import RunFolder
from kdcli.recipe.schema import Recipe
from kdcli.training.trainer import DistillationTrainer

FIT = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3}


@pytest.fixture
def recipe(tiny_teacher, small_data):
    return {
        "name": "precise",
        "data": {"dataset": str(small_data), "label": "intent"},
        "teacher": {"model": str(tiny_teacher)},
        "student": {"drop_every": 2},
        "distill": FIT,
        "evaluate": {"latency_texts": 1, "baselines": []},
        "report_to": [],
    }


def test_bfloat16_trains_float32_weights_on_float32_losses(recipe, tmp_path, monkeypatch):
    hidden, losses = set(), set()
    compute = DistillationTrainer.compute_loss

    def watch(self, model, inputs, *arguments, **options):
        inner = self.accelerator.unwrap_model(model)
        layer = next(m for m in inner.modules() if isinstance(m, torch.nn.Linear))
        hook = layer.register_forward_hook(lambda module, _, output: hidden.add(output.dtype))
        loss = compute(self, model, inputs, *arguments, **options)
        hook.remove()
        losses.add(loss.dtype)
        return loss

    monkeypatch.setattr(DistillationTrainer, "compute_loss", watch)
    overrides = {"distill.precision": "bfloat16"}
    run = kdcli.distill(recipe, output=tmp_path / "run", overrides=overrides)
    assert hidden == {torch.bfloat16}
    assert losses == {torch.float32}
    student = model_io.load_classifier(run.student)
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}


def test_float16_is_refused_on_a_cpu_before_any_work(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    output = tmp_path / "run"
    done = kd(
        "distill", tmp_path / "recipe.yaml", "-o", output, "--set", "distill.precision=float16"
    )
    assert done.exit_code == 2
    assert "float16" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("kind", "native", "expected"),
    [("cpu", True, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float32"),
     ("mps", True, "float32"), ("xpu", True, "bfloat16")],
)  # fmt: skip
def test_auto_is_bfloat16_where_the_device_computes_it(kind, native, expected, monkeypatch):
    monkeypatch.setattr(device, "inference_device", lambda: torch.device(kind))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert device.resolve_precision("auto") == expected


def test_what_is_asked_for_is_taken(monkeypatch):
    assert device.resolve_precision("float32") == "float32"
    assert device.resolve_precision("bfloat16") == "bfloat16"
    with pytest.raises(RecipeError):
        device.resolve_precision("float16")
    monkeypatch.setattr(device, "inference_device", lambda: torch.device("cuda"))
    assert device.resolve_precision("float16") == "float16"


def test_float32_keeps_the_key_of_a_stage_and_another_precision_does_not(recipe, tmp_path):
    def key(**distill):
        loaded = Recipe.model_validate({**recipe, "distill": {**FIT, **distill}})
        plan = plan_stages(loaded, RunFolder.open(tmp_path / "run"))
        return next(each.key for each in plan if each.stage.name == "distill")

    assert key() == key(precision="float32") != key(precision="bfloat16")
