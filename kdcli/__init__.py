"""kd: distil any text classifier into a smaller, faster one.

The names below are loaded when they are first used: `import kdcli` itself is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcli.api.evaluation import EvaluationReport, evaluate
    from kdcli.api.export import export
    from kdcli.api.prediction import load
    from kdcli.api.prediction_files import predict
    from kdcli.api.runs import (
        Run,
        distill,
        fine_tune_teacher,
        open_run,
        push_to_hub,
        write_card,
    )
    from kdcli.api.student_init import init_student
    from kdcli.errors import KdError
    from kdcli.models.device import use_device
    from kdcli.pipeline.stage import Stage, StageContext
    from kdcli.recipe.schema import Recipe
    from kdcli.serving.server import serve
    from kdcli.training.trainer import DistillationTrainer

__version__ = "0.1.0"
__all__ = [
    "DistillationTrainer",
    "EvaluationReport",
    "KdError",
    "Recipe",
    "Run",
    "Stage",
    "StageContext",
    "distill",
    "evaluate",
    "export",
    "fine_tune_teacher",
    "init_student",
    "load",
    "open_run",
    "predict",
    "push_to_hub",
    "serve",
    "use_device",
    "write_card",
]

_MODULES = {
    "DistillationTrainer": "kdcli.training.trainer",
    "EvaluationReport": "kdcli.api.evaluation",
    "KdError": "kdcli.errors",
    "Recipe": "kdcli.recipe.schema",
    "Run": "kdcli.api.runs",
    "Stage": "kdcli.pipeline.stage",
    "StageContext": "kdcli.pipeline.stage",
    "distill": "kdcli.api.runs",
    "evaluate": "kdcli.api.evaluation",
    "export": "kdcli.api.export",
    "fine_tune_teacher": "kdcli.api.runs",
    "init_student": "kdcli.api.student_init",
    "load": "kdcli.api.prediction",
    "open_run": "kdcli.api.runs",
    "predict": "kdcli.api.prediction_files",
    "push_to_hub": "kdcli.api.runs",
    "serve": "kdcli.serving",
    "use_device": "kdcli.models.device",
    "write_card": "kdcli.api.runs",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name == "losses":
        return import_module("kdcli.losses")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
