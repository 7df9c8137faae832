"""Plan a run: which of its stages are done already, and why the others have to run."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcli.data.readers.split_files import is_inside_dataset_folder
from kdcli.errors import UsageError
from kdcli.path_resolution import expand_local_path
from kdcli.pipeline.run_folder import RunFolder, stage_cache_key
from kdcli.pipeline.stage import Stage, StagePlan
from kdcli.recipe import renamed_keys
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.safe_files import sha256_of_file
from kdcli.stages import enabled_stages


def run_folder_path(recipe: Recipe, output: Path | None = None) -> Path:
    """Return the run's folder: `output`, or `runs/NAME`."""
    return Path("runs") / recipe.name if output is None else expand_local_path(str(output))


def refuse_run_folder_in_data(recipe: Recipe, folder: Path) -> None:
    """Refuse a run whose files would count as its own data.

    Raises:
        UsageError: The run's folder lies in the dataset's folder.
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
    until: str | None = None,
    *,
    fresh: bool = False,
    source_keys: Mapping[str, str] | None = None,
) -> list[StagePlan]:
    """Plan a run without running it.

    Args:
        recipe: The validated recipe.
        run: Its folder, with the records of finished stages.
        until: The last stage to plan for; None plans all of them.
        fresh: Plan to run every stage.
        source_keys: Cache keys of the recipe's sources; `source_cache_keys` by default.

    Raises:
        KdError: A local model or dataset that the recipe names is missing.
    """
    sources = source_cache_keys(recipe) if source_keys is None else source_keys
    planned: dict[str, StagePlan] = {}
    for stage in stages_until(until, recipe):
        spec = _key_recipe_parts(stage, recipe, sources)
        needs = [name for name in stage.needs if name in planned]
        key = stage_cache_key(stage.name, stage.version, spec, [planned[n].key for n in needs])
        rerun_dependency = next((n for n in needs if planned[n].reason), None)
        reason = (
            "asked for: --fresh"
            if fresh
            else _rerun_reason(stage, spec, key, run, rerun_dependency)
        )
        planned[stage.name] = StagePlan(stage, key, spec, reason)
    return list(planned.values())


def upstream_stages(stage: Stage, recipe: Recipe) -> list[str]:
    """Return the names of the stages that a stage needs, directly or indirectly, in order."""
    stages, names = enabled_stages(recipe), set(stage.needs)
    for other in reversed(stages):
        if other.name in names:
            names |= set(other.needs)
    return [other.name for other in stages if other.name in names]


def stages_until(name: str | None, recipe: Recipe) -> Sequence[Stage]:
    """Return a stage and those it builds on, in order; all that a recipe has for None."""
    stages = enabled_stages(recipe)
    if name is None:
        return stages
    last = next(stage for stage in stages if stage.name == name)
    names = {*upstream_stages(last, recipe), name}
    return [stage for stage in stages if stage.name in names]


def _key_recipe_parts(
    stage: Stage, recipe: Recipe, source_keys: Mapping[str, str]
) -> dict[str, Any]:
    whole = recipe.model_dump(mode="json")
    spec = {part: whole[part] for part in stage.recipe_parts}
    for key in stage.ignored_keys:
        part, _, name = key.partition(".")
        spec[part].pop(name, None)  # a teacher that is a black box has other keys
    if "student" in spec and spec["student"]["family"] is None:
        # Stages of recipes without these keys ran before the keys were there.
        del spec["student"]["family"], spec["student"]["options"]
    for training in _training_sections(spec):
        if training["precision"] == "float32":
            del training["precision"]  # the same
    spec = renamed_keys.original_values(spec, recipe_values=whole)
    spec |= stage.extra_cache_key_parts(recipe)
    if digests := _plugin_digests(recipe, spec):
        spec["plugins"] = digests
    # The content of a source counts, not its path.
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
    for index, other in enumerate(spec.get("teacher", {}).get("also", ())):
        other["model"] = source_keys[other_teacher_key(index)]
    return spec


def _training_sections(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the training hyperparameters in the parts of a recipe."""
    teacher = spec.get("teacher", {})
    sections = [spec.get("distill"), teacher.get("fine_tune")]
    sections += [other.get("fine_tune") for other in teacher.get("ensemble_with") or ()]
    return [section for section in sections if section]


def _plugin_digests(recipe: Recipe, spec: Mapping[str, Any]) -> dict[str, str]:
    """Digest the modules of the plug-in classes that a stage uses: their changes count too."""
    used: list[Any] = []
    if "losses" in spec.get("distill", {}):
        used += recipe.distill.losses or ()
    if "teacher" in spec:
        used.append(recipe.teacher)
    if "student" in spec and recipe.student.family is not None:
        used.append(recipe.student.student_family)
    digests = {}
    for name in sorted({type(value).__module__ for value in used}):
        file = sys.modules[name].__file__
        if name.partition(".")[0] != "kdcli" and file is not None:
            digests[name] = f"sha256:{sha256_of_file(Path(file))}"
    return digests


def source_cache_keys(recipe: Recipe) -> dict[str, str]:
    """Return a cache key for each source: a digest of local ones, name and revision of others.

    Raises:
        KdError: A local model or dataset is missing.
    """
    from kdcli.data import dataset_loading
    from kdcli.models import model_io

    keys, teacher = {"data": dataset_loading.dataset_cache_key(recipe.data)}, recipe.teacher
    if recipe.data.unlabeled is not None:
        keys["unlabelled"] = dataset_loading.dataset_cache_key(recipe.data.unlabeled_data_config)
    if recipe.augment is not None and recipe.augment.model is not None:
        keys["augment"] = model_io.compute_model_fingerprint(
            recipe.augment.model, recipe.augment.revision
        )
    source = None if teacher.source_key is None else getattr(teacher, teacher.source_key)
    if teacher.source_key == "file":
        keys["teacher"] = dataset_loading.dataset_cache_key(
            recipe.data.model_copy(update={"dataset": source})
        )
    elif source is not None:
        revision = getattr(teacher, "revision", None)
        keys["teacher"] = model_io.compute_model_fingerprint(source, revision)
    for index, other in enumerate(
        teacher.ensemble_with if isinstance(teacher, ClassifierTeacherConfig) else ()
    ):
        keys[other_teacher_key(index)] = model_io.compute_model_fingerprint(
            other.model, other.revision
        )
    if recipe.student.model is not None:
        keys["student"] = model_io.compute_model_fingerprint(
            recipe.student.model, recipe.student.revision
        )
    return keys


def other_teacher_key(index: int) -> str:
    """Return the name of a further teacher among the source keys."""
    return f"teacher.also.{index}"


def recorded_source_cache_keys(run: RunFolder) -> dict[str, str]:
    """Return the source keys that a run recorded: the sources themselves may be gone."""
    specs = [record.spec for record in run.records.values()]
    keys = {"teacher": "", "student": ""}
    for spec in specs:
        for part in keys.keys() & spec.keys():
            keys[part] = spec[part].get("file") or spec[part].get("model")
    for spec in specs:
        for index, other in enumerate(spec.get("teacher", {}).get("also", ())):
            keys[other_teacher_key(index)] = other["model"]
    keys["data"] = next((spec["data"]["dataset"] for spec in specs if "data" in spec), "")
    for spec in specs:
        if "augment" in spec:
            keys["unlabelled"] = spec["data"]["unlabelled"] or ""
            keys["augment"] = (spec["augment"] or {}).get("model") or ""
    return keys


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
    """Describe the first difference between two parts of a recipe; None if there is none."""
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
        difference = describe_first_difference(before, after, f"{path}.{key}")
        if difference:
            return difference
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
