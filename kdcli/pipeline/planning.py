"""The stages in order, and what of them is done already: planning without doing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.data.readers.split_files import is_inside_dataset_folder
from kdcli.errors import UsageError
from kdcli.pipeline.run_folder import RunFolder, stage_cache_key
from kdcli.recipe import renamed_keys
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Attributes:
        name: What a person calls it.
        description: What it does, in a few words.
        artifact: Path in the run folder of what it makes.
        depends_on: The stages whose artifacts it reads.
        recipe_parts: The parts of the recipe that its outcome depends on.
        ignored_keys: Keys of these parts, dotted, that it doesn't depend on.
        enabled_by: The part of the recipe that asks for it; None where every recipe does.
        entry_point: Where its function is, as `module:function`; imported when it is needed.
        version: Counted up when the same inputs come to give another outcome.
        all_processes: Whether all processes of a run work at it; otherwise the first one does.
        reusable_across_runs: Whether another run's outcome is worth taking over, or waiting for.
    """

    name: str
    description: str
    artifact: str
    depends_on: tuple[str, ...]
    recipe_parts: tuple[str, ...]
    entry_point: str
    version: int = 1
    ignored_keys: tuple[str, ...] = ()
    enabled_by: str | None = None
    all_processes: bool = False
    reusable_across_runs: bool = False


_TEACHER_OUTPUT_KEYS = tuple(f"teacher.{key}" for key in ("also", "calibrated", "folds", "weight"))
_UNLABELLED = "data.unlabelled"
STAGES = (
    Stage("teacher", "make the teacher ready", "teacher", (), ("data", "teacher", "seed"),
          "kdcli.stages.teacher:prepare_teacher", version=4, ignored_keys=(*_TEACHER_OUTPUT_KEYS, _UNLABELLED),
          all_processes=True, reusable_across_runs=True),
    Stage("student", "cut out the student", "student-init", ("teacher",),
          ("data", "student", "seed"), "kdcli.stages.student_init:build_initial_student", version=3,
          ignored_keys=(_UNLABELLED,)),
    Stage("transfer", "gather texts without labels", "transfer-set", (),
          ("data", "augment", "seed"), "kdcli.stages.transfer_set:build_transfer_set", version=2, enabled_by="has_transfer_set"),
    Stage("outputs", "ask the teacher", "teacher-outputs", ("teacher", "transfer"),
          ("data", "teacher"), "kdcli.stages.teacher_logits:compute_teacher_logits", version=5, ignored_keys=(_UNLABELLED,),
          all_processes=True, reusable_across_runs=True),
    Stage("distill", "train the student", "student", ("student", "transfer", "outputs"),
          ("data", "distill", "seed"), "kdcli.stages.distill:distill_student", version=3,
          ignored_keys=(_UNLABELLED,), all_processes=True),
    Stage("control", "train the student without these texts", "control",
          ("student", "transfer", "outputs"), ("data", "distill", "seed"),
          "kdcli.stages.distill:train_control_without_transfer_set", version=3, ignored_keys=(_UNLABELLED,), enabled_by="has_control_student",
          all_processes=True),
    Stage("baseline", "train the student on labels alone", "baseline", ("student", "transfer"),
          ("data", "distill", "seed"), "kdcli.stages.distill:train_baseline_on_labels", version=3,
          ignored_keys=("distill.losses", _UNLABELLED), enabled_by="baseline", all_processes=True),
    Stage("evaluate", "measure them", "evaluation.json",
          ("teacher", "outputs", "distill", "control", "baseline"), ("data", "evaluate"),
          "kdcli.stages.evaluate:evaluate_teacher_and_student", version=6, ignored_keys=(_UNLABELLED,)),
    Stage("settings", "note temperature and threshold", "student/kd.json",
          ("distill", "evaluate"), ("data",), "kdcli.stages.inference_config:write_inference_config"),
    Stage("page", "draw the page", "report.html", ("evaluate",),
          ("name", "card"), "kdcli.stages.html_report:write_html_report", version=2),
    Stage("card", "write the card", "student/README.md", ("evaluate",),
          ("name", "card"), "kdcli.stages.model_card:write_model_card", version=3),
)  # fmt: skip


@dataclass(frozen=True)
class StagePlan:
    """A stage and what becomes of it: `reason` is why it runs, None where it is reused."""

    stage: Stage
    key: str
    spec: Mapping[str, Any]
    reason: str | None


def run_folder_path(recipe: Recipe, output: Path | None = None) -> Path:
    """The run's folder: what the user named, or `runs/NAME`."""
    return output if output is not None else Path("runs") / recipe.name


def refuse_run_folder_in_data(recipe: Recipe, folder: Path) -> None:
    """Refuse a run whose files would count as its own data.

    Raises:
        UsageError: The run's folder lies in that of the data.
    """
    if is_inside_dataset_folder(recipe.data, folder):
        raise UsageError(
            f"The run's folder {folder} lies in that of the data, {recipe.data.dataset}, where "
            "all files count as data.",
            "Name another --output, or the data's files: data.splits.train: train.csv, say.",
        )


def plan_stages(
    recipe: Recipe,
    run: RunFolder,
    until: str = "card",
    *,
    fresh: bool = False,
    source_keys: Mapping[str, str] | None = None,
) -> list[StagePlan]:
    """What a run would do, in order, without doing it.

    Args:
        recipe: The validated recipe.
        run: Its folder, with what is done already.
        until: The last stage to plan for.
        fresh: Whether to do everything anew.
        source_keys: What the recipe's sources hold, see `identities_of`; looked up where left out.

    Raises:
        KdError: A local model or data set that the recipe names isn't there.
    """
    sources = source_cache_keys(recipe) if source_keys is None else source_keys
    planned: dict[str, StagePlan] = {}
    for stage in stages_until(until, recipe):
        spec = _key_recipe_parts(stage, recipe, sources)
        needs = [name for name in stage.depends_on if name in planned]
        key = stage_cache_key(stage.name, stage.version, spec, [planned[n].key for n in needs])
        redone = next((n for n in needs if planned[n].reason), None)
        reason = "asked for: --fresh" if fresh else _rerun_reason(stage, spec, key, run, redone)
        planned[stage.name] = StagePlan(stage, key, spec, reason)
    return list(planned.values())


def upstream_stages(stage: Stage, recipe: Recipe) -> list[str]:
    """The stages that one builds on, at first or second hand, in their order."""
    stages, names = _enabled_stages(recipe), set(stage.depends_on)
    for other in reversed(stages):
        if other.name in names:
            names |= set(other.depends_on)
    return [other.name for other in stages if other.name in names]


def stages_until(name: str, recipe: Recipe) -> Sequence[Stage]:
    """The stages that lead to one of them, and itself; the last has all that a recipe asks for."""
    stages = _enabled_stages(recipe)
    if name == stages[-1].name:
        return stages
    goal = next(stage for stage in stages if stage.name == name)
    leading = upstream_stages(goal, recipe)
    return [stage for stage in stages if stage.name in (*leading, name)]


def _enabled_stages(recipe: Recipe) -> list[Stage]:
    return [
        stage for stage in STAGES if stage.enabled_by is None or getattr(recipe, stage.enabled_by)
    ]


def _key_recipe_parts(
    stage: Stage, recipe: Recipe, source_keys: Mapping[str, str]
) -> dict[str, Any]:
    whole = renamed_keys.original_values(recipe.model_dump(mode="json"))
    spec = {part: whole[part] for part in stage.recipe_parts}
    for key in stage.ignored_keys:
        part, _, name = key.partition(".")
        spec[part].pop(name, None)  # a teacher that is a black box has other keys
    if stage.name == "student" and recipe.student.has_random_weights:
        spec["distill"] = {"seed": recipe.student_seed}
    # Where a source lies is of no consequence: what it holds is.
    if "data" in spec:
        spec["data"]["dataset"] = source_keys["data"]
        if spec["data"].get("unlabelled") is not None:
            spec["data"]["unlabelled"] = source_keys["unlabelled"]
    if spec.get("augment") and spec["augment"]["model"] is not None:
        spec["augment"]["model"] = source_keys["augment"]
    if "teacher" in spec and recipe.teacher.source_key is not None:
        spec["teacher"][recipe.teacher.source_key] = source_keys["teacher"]
    if "student" in spec and spec["student"]["model"] is not None:
        spec["student"]["model"] = source_keys["student"]
    for place, other in enumerate(spec.get("teacher", {}).get("also", ())):
        other["model"] = source_keys[other_teacher_key(place)]
    return spec


def source_cache_keys(recipe: Recipe) -> dict[str, str]:
    """What the recipe's sources hold: digests of local ones, names and revisions of others.

    Raises:
        KdError: A local model or data set isn't there.
    """
    from kdcli.data import dataset_loading as data
    from kdcli.models import model_io as models

    found, teacher = {"data": data.dataset_cache_key(recipe.data)}, recipe.teacher
    if recipe.data.unlabeled is not None:
        found["unlabelled"] = data.dataset_cache_key(recipe.data.unlabeled_data_config)
    if recipe.augment is not None and recipe.augment.model is not None:
        found["augment"] = models.compute_model_fingerprint(
            recipe.augment.model, recipe.augment.revision
        )
    source = None if teacher.source_key is None else getattr(teacher, teacher.source_key)
    if teacher.source_key == "file":
        found["teacher"] = data.dataset_cache_key(
            recipe.data.model_copy(update={"dataset": source})
        )
    elif source is not None:
        revision = getattr(teacher, "revision", None)
        found["teacher"] = models.compute_model_fingerprint(source, revision)
    for place, other in enumerate(
        teacher.ensemble_with if isinstance(teacher, ClassifierTeacherConfig) else ()
    ):
        found[other_teacher_key(place)] = models.compute_model_fingerprint(
            other.model, other.revision
        )
    if recipe.student.model is not None:
        found["student"] = models.compute_model_fingerprint(
            recipe.student.model, recipe.student.revision
        )
    return found


def other_teacher_key(index: int) -> str:
    """What the identity of another teacher goes by."""
    return f"teacher.also.{index}"


def recorded_source_cache_keys(run: RunFolder) -> dict[str, str]:
    """What the run's sources were when it was made: they may be gone by now."""
    specs = [record.spec for record in run.records.values()]
    found = {"teacher": "", "student": ""}
    for spec in specs:
        for part in found.keys() & spec.keys():
            found[part] = spec[part].get("file") or spec[part].get("model")
    for spec in specs:
        for place, other in enumerate(spec.get("teacher", {}).get("also", ())):
            found[other_teacher_key(place)] = other["model"]
    found["data"] = next((spec["data"]["dataset"] for spec in specs if "data" in spec), "")
    for spec in specs:
        if "augment" in spec:
            found["unlabelled"] = spec["data"]["unlabelled"] or ""
            found["augment"] = (spec["augment"] or {}).get("model") or ""
    return found


def _rerun_reason(
    stage: Stage, spec: Mapping[str, Any], key: str, run: RunFolder, rerun_dependency: str | None
) -> str | None:
    record = run.records.get(stage.name)
    if record is None:
        return "not done yet"
    changed = describe_first_difference(record.spec, spec)
    if changed:
        return changed
    if rerun_dependency:
        return f"{rerun_dependency} is done again"
    if record.key != key:
        return "made from other inputs, or by another version of kd"
    return run.artifact_problem(stage.name, stage.artifact)


def describe_first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """In words, where two parts of a recipe differ first; None where they don't."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: Sequence[Any] = sorted({*old, *new})
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        keys = range(len(old))
    else:
        return (
            None
            if old == new
            else f"{_current_key(path[1:])} was {_shorten(old)}, is {_shorten(new)}"
        )
    for key in keys:
        before, after = (_get_item(value, key) for value in (old, new))
        found = describe_first_difference(before, after, f"{path}.{key}")
        if found:
            return found
    return None


def _current_key(key: str) -> str:
    """The recipe's name for a key of a stage's record, which keeps the old names."""
    parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    return ".".join(map(str, renamed_keys.current_key_path(parts)))


def _get_item(value: Any, key: Any) -> Any:
    return value.get(key) if isinstance(value, Mapping) else value[key]


def _shorten(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "…"
