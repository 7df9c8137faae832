"""The stages of the pipeline: one module each, in `BUILT_IN_STAGES` order, and those of plugins."""

from functools import cache

from kdcli import plugins
from kdcli.errors import UsageError
from kdcli.pipeline.stage import Stage
from kdcli.recipe.schema import Recipe
from kdcli.stages.baseline import BaselineStage
from kdcli.stages.distill import DistillStage
from kdcli.stages.evaluate import EvaluateStage
from kdcli.stages.export import ExportStage
from kdcli.stages.html_report import HtmlReportStage
from kdcli.stages.inference_config import InferenceConfigStage
from kdcli.stages.model_card import ModelCardStage
from kdcli.stages.simple_baselines import SimpleBaselinesStage
from kdcli.stages.student_init import StudentInitStage
from kdcli.stages.teacher import TeacherStage
from kdcli.stages.teacher_logits import TeacherLogitsStage
from kdcli.stages.transfer_set import TransferSetStage
from kdcli.stages.transfer_set_ablation import TransferSetAblationStage

ENTRY_POINT_GROUP = "kdcli.stages"
BUILT_IN_STAGES: tuple[Stage, ...] = (
    TeacherStage(),
    StudentInitStage(),
    TransferSetStage(),
    TeacherLogitsStage(),
    DistillStage(),
    TransferSetAblationStage(),
    BaselineStage(),
    ExportStage(),
    SimpleBaselinesStage(),
    EvaluateStage(),
    InferenceConfigStage(),
    HtmlReportStage(),
    ModelCardStage(),
)


@cache
def all_stages() -> tuple[Stage, ...]:
    """Return the built-in stages and those of installed plugins, in the order in which they run.

    Raises:
        UserError: A plugin can't be loaded, or its stage repeats a name or an artifact, or needs
            a stage that is missing.
    """
    stages = list(BUILT_IN_STAGES)
    names = plugins.plugin_names(ENTRY_POINT_GROUP)
    waiting: list[Stage] = [_load_stage(n) for n in names]
    while waiting:
        done = {stage.name for stage in stages}
        ready = [stage for stage in waiting if done.issuperset(stage.needs)]
        if not ready:
            raise UsageError(
                f"Stage {waiting[0].name} needs {', '.join(waiting[0].needs)}, of which at least "
                "one does not exist.",
                "Install what provides it, or uninstall the plugin.",
            )
        for stage in ready:
            if any(stage.name == s.name or stage.artifact == s.artifact for s in stages):
                raise UsageError(
                    f"Stage {stage.name} ({stage.artifact}) of {type(stage).__module__} has the "
                    "name or the artifact of another stage.",
                    "Uninstall one of the plugins.",
                )
            stages.append(stage)
            waiting.remove(stage)
    return tuple(stages)


def enabled_stages(recipe: Recipe) -> list[Stage]:
    """Return the stages that a recipe has, in order."""
    return [stage for stage in all_stages() if stage.is_enabled(recipe)]


def _load_stage(name: str) -> Stage:
    stage_class: type[Stage] | None = plugins.load_plugin(ENTRY_POINT_GROUP, name, Stage)
    assert stage_class is not None, "the name is that of an entry point"
    return stage_class()
