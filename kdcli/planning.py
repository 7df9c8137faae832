"""The stages in order, and what of them is done already: planning without doing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.data.folder import would_hold
from kdcli.errors import UsageError
from kdcli.recipe.black_box import EmbeddingsSpec, ScoresSpec, ZeroShotSpec
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import TeacherSpec
from kdcli.run import RunFolder, stage_key


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Attributes:
        name: What a person calls it.
        doing: What it does, in a few words.
        artifact: Path in the run folder of what it makes.
        needs: The stages whose artifacts it reads.
        spec: The parts of the recipe that its outcome depends on.
        besides: Keys of these parts, dotted, that it doesn't depend on.
        when: The part of the recipe that asks for it; None where every recipe does.
        work: Where its function is, as `module:function`; imported when it is needed.
        version: Counted up when the same inputs come to give another outcome.
        together: Whether all processes of a run work at it; otherwise the first one does.
        costly: Whether another run's outcome is worth taking over, or waiting for.
    """

    name: str
    doing: str
    artifact: str
    needs: tuple[str, ...]
    spec: tuple[str, ...]
    work: str
    version: int = 1
    besides: tuple[str, ...] = ()
    when: str | None = None
    together: bool = False
    costly: bool = False


_HOW_IT_ANSWERS = tuple(f"teacher.{key}" for key in ("also", "calibrated", "folds", "weight"))
_UNLABELLED = "data.unlabelled"
STAGES = (
    Stage("teacher", "make the teacher ready", "teacher", (), ("data", "teacher", "seed"),
          "kdcli.stages.teacher:run", version=4, besides=(*_HOW_IT_ANSWERS, _UNLABELLED),
          together=True, costly=True),
    Stage("student", "cut out the student", "student-init", ("teacher",),
          ("data", "student", "seed"), "kdcli.stages.student:run", version=3,
          besides=(_UNLABELLED,)),
    Stage("transfer", "gather texts without labels", "transfer-set", (),
          ("data", "augment", "seed"), "kdcli.stages.transfer:run", version=2, when="transfer"),
    Stage("outputs", "ask the teacher", "teacher-outputs", ("teacher", "transfer"),
          ("data", "teacher"), "kdcli.stages.outputs:run", version=5, besides=(_UNLABELLED,),
          together=True, costly=True),
    Stage("distill", "train the student", "student", ("student", "transfer", "outputs"),
          ("data", "distill", "seed"), "kdcli.stages.distill:run", version=3,
          besides=(_UNLABELLED,), together=True),
    Stage("control", "train the student without these texts", "control",
          ("student", "transfer", "outputs"), ("data", "distill", "seed"),
          "kdcli.stages.distill:run_control", version=3, besides=(_UNLABELLED,), when="control",
          together=True),
    Stage("baseline", "train the student on labels alone", "baseline", ("student", "transfer"),
          ("data", "distill", "seed"), "kdcli.stages.distill:run_baseline", version=3,
          besides=("distill.losses", _UNLABELLED), when="baseline", together=True),
    Stage("evaluate", "measure them", "evaluation.json",
          ("teacher", "outputs", "distill", "control", "baseline"), ("data", "evaluate"),
          "kdcli.stages.evaluate:run", version=6, besides=(_UNLABELLED,)),
    Stage("settings", "note temperature and threshold", "student/kd.json",
          ("distill", "evaluate"), ("data",), "kdcli.stages.settings:run"),
    Stage("page", "draw the page", "report.html", ("evaluate",),
          ("name", "card"), "kdcli.stages.page:run", version=2),
    Stage("card", "write the card", "student/README.md", ("evaluate",),
          ("name", "card"), "kdcli.stages.card:run", version=3),
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A stage and what becomes of it: `reason` is why it runs, None where it is reused."""

    stage: Stage
    key: str
    spec: Mapping[str, Any]
    reason: str | None


def folder_for(recipe: Recipe, output: Path | None = None) -> Path:
    """The run's folder: what the user named, or `runs/NAME`."""
    return output if output is not None else Path("runs") / recipe.name


def apart_from_data(recipe: Recipe, folder: Path) -> None:
    """Refuse a run whose files would count as its own data.

    Raises:
        UsageError: The run's folder lies in that of the data.
    """
    if would_hold(recipe.data, folder):
        raise UsageError(
            f"The run's folder {folder} lies in that of the data, {recipe.data.dataset}, where "
            "all files count as data.",
            "Name another --output, or the data's files: data.splits.train: train.csv, say.",
        )


def plan(
    recipe: Recipe,
    run: RunFolder,
    until: str = "card",
    *,
    fresh: bool = False,
    identities: Mapping[str, str] | None = None,
) -> list[Planned]:
    """What a run would do, in order, without doing it.

    Args:
        recipe: The validated recipe.
        run: Its folder, with what is done already.
        until: The last stage to plan for.
        fresh: Whether to do everything anew.
        identities: What the recipe's sources hold, see `identities_of`; looked up where left out.

    Raises:
        KdError: A local model or data set that the recipe names isn't there.
    """
    sources = identities_of(recipe) if identities is None else identities
    planned: dict[str, Planned] = {}
    for stage in stages_until(until, recipe):
        spec = _spec(stage, recipe, sources)
        needs = [name for name in stage.needs if name in planned]
        key = stage_key(stage.name, stage.version, spec, [planned[n].key for n in needs])
        redone = next((n for n in needs if planned[n].reason), None)
        reason = "asked for: --fresh" if fresh else _reason(stage, spec, key, run, redone)
        planned[stage.name] = Planned(stage, key, spec, reason)
    return list(planned.values())


def needed(stage: Stage, recipe: Recipe) -> list[str]:
    """The stages that one builds on, at first or second hand, in their order."""
    stages, names = _asked_for(recipe), set(stage.needs)
    for other in reversed(stages):
        if other.name in names:
            names |= set(other.needs)
    return [other.name for other in stages if other.name in names]


def stages_until(name: str, recipe: Recipe) -> Sequence[Stage]:
    """The stages that lead to one of them, and itself; the last has all that a recipe asks for."""
    stages = _asked_for(recipe)
    if name == stages[-1].name:
        return stages
    goal = next(stage for stage in stages if stage.name == name)
    leading = needed(goal, recipe)
    return [stage for stage in stages if stage.name in (*leading, name)]


def _asked_for(recipe: Recipe) -> list[Stage]:
    return [stage for stage in STAGES if stage.when is None or getattr(recipe, stage.when)]


def _spec(stage: Stage, recipe: Recipe, identities: Mapping[str, str]) -> dict[str, Any]:
    whole = recipe.model_dump(mode="json")
    spec = {part: whole[part] for part in stage.spec}
    for key in stage.besides:
        part, _, name = key.partition(".")
        spec[part].pop(name, None)  # a teacher that is a black box has other keys
    if stage.name == "student" and recipe.student.drawn:
        spec["distill"] = {"seed": recipe.student_seed}
    # Where a source lies is of no consequence: what it holds is.
    if "data" in spec:
        spec["data"]["dataset"] = identities["data"]
        if spec["data"].get("unlabelled") is not None:
            spec["data"]["unlabelled"] = identities["unlabelled"]
    if spec.get("augment") and spec["augment"]["model"] is not None:
        spec["augment"]["model"] = identities["augment"]
    if "teacher" in spec and recipe.teacher.source is not None:
        spec["teacher"][recipe.teacher.source] = identities["teacher"]
    if "student" in spec and spec["student"]["model"] is not None:
        spec["student"]["model"] = identities["student"]
    for place, other in enumerate(spec.get("teacher", {}).get("also", ())):
        other["model"] = identities[also(place)]
    return spec


def identities_of(recipe: Recipe) -> dict[str, str]:
    """What the recipe's sources hold: digests of local ones, names and revisions of others.

    Raises:
        KdError: A local model or data set isn't there.
    """
    from kdcli.data import source as data
    from kdcli.models import source as models

    found, teacher = {"data": data.identity(recipe.data)}, recipe.teacher
    if recipe.data.unlabelled is not None:
        found["unlabelled"] = data.identity(recipe.data.of_unlabelled)
    if recipe.augment is not None and recipe.augment.model is not None:
        found["augment"] = models.identity(recipe.augment.model, recipe.augment.revision)
    if isinstance(teacher, ScoresSpec):
        found["teacher"] = data.identity(recipe.data.model_copy(update={"dataset": teacher.file}))
    elif isinstance(teacher, TeacherSpec | ZeroShotSpec | EmbeddingsSpec):
        found["teacher"] = models.identity(teacher.model, teacher.revision)
    for place, other in enumerate(teacher.also if isinstance(teacher, TeacherSpec) else ()):
        found[also(place)] = models.identity(other.model, other.revision)
    if recipe.student.model is not None:
        found["student"] = models.identity(recipe.student.model, recipe.student.revision)
    return found


def also(place: int) -> str:
    """What the identity of another teacher goes by."""
    return f"teacher.also.{place}"


def recorded_identities(run: RunFolder) -> dict[str, str]:
    """What the run's sources were when it was made: they may be gone by now."""
    specs = [record.spec for record in run.records.values()]
    found = {"teacher": "", "student": ""}
    for spec in specs:
        for part in found.keys() & spec.keys():
            found[part] = spec[part].get("file") or spec[part].get("model")
    for spec in specs:
        for place, other in enumerate(spec.get("teacher", {}).get("also", ())):
            found[also(place)] = other["model"]
    found["data"] = next((spec["data"]["dataset"] for spec in specs if "data" in spec), "")
    for spec in specs:
        if "augment" in spec:
            found["unlabelled"] = spec["data"]["unlabelled"] or ""
            found["augment"] = (spec["augment"] or {}).get("model") or ""
    return found


def _reason(
    stage: Stage, spec: Mapping[str, Any], key: str, run: RunFolder, redone: str | None
) -> str | None:
    record = run.records.get(stage.name)
    if record is None:
        return "not done yet"
    changed = first_difference(record.spec, spec)
    if changed:
        return changed
    if redone:
        return f"{redone} is done again"
    if record.key != key:
        return "made from other inputs, or by another version of kd"
    return run.fault(stage.name, stage.artifact)


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """In words, where two parts of a recipe differ first; None where they don't."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: Sequence[Any] = sorted({*old, *new})
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        keys = range(len(old))
    else:
        return None if old == new else f"{path[1:]} was {_short(old)}, is {_short(new)}"
    for key in keys:
        before, after = (_get(value, key) for value in (old, new))
        found = first_difference(before, after, f"{path}.{key}")
        if found:
            return found
    return None


def _get(value: Any, key: Any) -> Any:
    return value.get(key) if isinstance(value, Mapping) else value[key]


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "…"
