"""The core: the stages in order, what is already done, and how to do the rest."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from kdcli.errors import StoppedError, UsageError
from kdcli.progress import Reporter
from kdcli.recipe.load import dump, load
from kdcli.recipe.schema import Recipe
from kdcli.run import MANIFEST, RECIPE, WORK, Cadence, Job, Record, RunFolder, inventory, stage_key


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Attributes:
        name: What a person calls it.
        doing: What it does, in a few words.
        artifact: Path in the run folder of what it makes.
        needs: The stages whose artifacts it reads.
        spec: The parts of the recipe that its outcome depends on.
        work: Where its function is, as `module:function`; imported when it is needed.
        version: Counted up when the same inputs come to give another outcome.
    """

    name: str
    doing: str
    artifact: str
    needs: tuple[str, ...]
    spec: tuple[str, ...]
    work: str
    version: int = 1


STAGES = (
    Stage("teacher", "fine-tune the teacher", "teacher", (), ("data", "teacher", "seed"),
          "kdcli.stages.teacher:run"),
    Stage("student", "cut out the student", "student-init", ("teacher",), ("student", "seed"),
          "kdcli.stages.student:run"),
    Stage("outputs", "ask the teacher", "teacher-outputs", ("teacher",), ("data",),
          "kdcli.stages.outputs:run"),
    Stage("distill", "train the student", "student", ("student", "outputs"),
          ("data", "distill", "seed"), "kdcli.stages.distill:run"),
    Stage("evaluate", "measure both", "evaluation.json", ("teacher", "distill"),
          ("data", "evaluate"), "kdcli.stages.evaluate:run"),
    Stage("card", "write the card", "student/README.md", ("evaluate",),
          ("name", "card"), "kdcli.stages.card:run"),
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


def plan(
    recipe: Recipe, run: RunFolder, until: str = "card", *, fresh: bool = False
) -> list[Planned]:
    """What a run would do, in order, without doing it.

    Args:
        recipe: The validated recipe.
        run: Its folder, with what is done already.
        until: The last stage to plan for.
        fresh: Whether to do everything anew.

    Raises:
        KdError: A local model or data set that the recipe names isn't there.
    """
    return _plan(recipe, _identities(recipe), run, until, fresh=fresh)


def _plan(
    recipe: Recipe, identities: Mapping[str, str], run: RunFolder, until: str, *, fresh: bool
) -> list[Planned]:
    planned: dict[str, Planned] = {}
    for stage in _stages_until(until):
        spec = _spec(stage, recipe, identities)
        key = stage_key(stage.name, stage.version, spec, [planned[n].key for n in stage.needs])
        redone = next((n for n in stage.needs if planned[n].reason), None)
        reason = "asked for: --fresh" if fresh else _reason(stage, spec, key, run, redone)
        planned[stage.name] = Planned(stage, key, spec, reason)
    return list(planned.values())


def execute(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    until: str = "card",
    *,
    fresh: bool = False,
    checkpoint_every: Cadence = Cadence(),
) -> RunFolder:
    """Run the pipeline up to a stage; what is done already for the same inputs is reused.

    Args:
        recipe: The validated recipe.
        folder: The run's folder.
        reporter: Told of every stage and step.
        until: The last stage to run.
        fresh: Do everything anew, from no checkpoint.
        checkpoint_every: How often training writes one.

    Returns:
        The run folder, with the record of every stage up to `until`.

    Raises:
        KdError: With what to do about it; stages that were finished stay.
    """
    with _locked(folder):
        run = RunFolder.open(folder)
        todo = plan(recipe, run, until, fresh=fresh)
        if fresh:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        if any(item.reason for item in todo):
            run.write_text(RECIPE, dump(recipe))
            # Also what is made of what is made anew: a run that breaks off must not reuse it.
            run.forget(item.stage.name for item in todo if item.reason)
        for item in todo:
            if item.reason is None:
                seconds = run.records[item.stage.name].seconds
                reporter.finish(item.stage.name, "reused", seconds)
            else:
                _run_stage(item, recipe, run, reporter, checkpoint_every)
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return run


def latest_run(folder: Path) -> Path:
    """The run below `folder` that was worked on last.

    Raises:
        UsageError: There is none.
    """
    manifests = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise UsageError(
            f"There is no run in {folder}.", "Name one, or start it: kd distill RECIPE."
        )
    return manifests[-1].parent


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was made with.

    Raises:
        UsageError: The folder is no run's.
    """
    if not (folder / RECIPE).is_file():
        raise UsageError(
            f"{folder} is no run: it has no {RECIPE}.", "Start one: kd distill RECIPE."
        )
    return load(str(folder / RECIPE))


def write_card(folder: Path, reporter: Reporter) -> Path:
    """Write the card of a finished run again, from what was measured.

    Returns:
        The student's folder, with the card in it.

    Raises:
        UsageError: The folder is no run's, or the run isn't finished, or was changed since.
    """
    recipe = recipe_of(folder)
    with _locked(folder):
        run = RunFolder.open(folder)
        *before, card = _plan(recipe, _recorded_identities(run), run, "card", fresh=False)
        for item in before:
            if item.reason:
                raise UsageError(
                    f"The run {folder} isn't whole: stage {item.stage.name}: {item.reason}.",
                    f"Finish it: kd distill {folder / RECIPE} --output {folder}.",
                )
        _run_stage(card, recipe, run, reporter)
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return folder / "student"


def _run_stage(
    item: Planned,
    recipe: Recipe,
    run: RunFolder,
    reporter: Reporter,
    checkpoint_every: Cadence = Cadence(),
) -> None:
    stage = item.stage
    reporter.start(stage.name, stage.doing)
    build, scratch = run.workdir(stage.name, item.key)
    job = Job(
        recipe=recipe,
        inputs={s.name: run.path / s.artifact for s in STAGES if s.name in run.records},
        results={name: record.result for name, record in run.records.items()},
        output=build / Path(stage.artifact).name,
        scratch=scratch,
        logs=run.path / "logs",
        reporter=reporter,
        checkpoint_every=checkpoint_every,
    )
    work_on: Callable[[Job], Mapping[str, Any]] = resolve_name(stage.work)
    start = time.monotonic()
    try:
        result = work_on(job)
    except KeyboardInterrupt as error:
        raise StoppedError(
            f"Stopped in stage {stage.name}; the stages before it are kept.",
            "Run the same command again to go on.",
        ) from error
    seconds = time.monotonic() - start
    record = Record(item.key, item.spec, inventory(job.output), result, seconds)
    run.publish(stage.name, stage.artifact, job.output, record)
    reporter.finish(stage.name, "done", seconds)


def _stages_until(name: str) -> Sequence[Stage]:
    names = [stage.name for stage in STAGES]
    return STAGES[: names.index(name) + 1]


def _spec(stage: Stage, recipe: Recipe, identities: Mapping[str, str]) -> dict[str, Any]:
    whole = recipe.model_dump(mode="json")
    spec = {part: whole[part] for part in stage.spec}
    # Where a source lies is of no consequence: what it holds is.
    if "data" in spec:
        spec["data"]["dataset"] = identities["data"]
    for part in ("teacher", "student"):
        if part in spec and spec[part]["model"] is not None:
            spec[part]["model"] = identities[part]
    return spec


def _identities(recipe: Recipe) -> dict[str, str]:
    from kdcli.data import source as data
    from kdcli.models import source as models

    found = {
        "data": data.identity(recipe.data),
        "teacher": models.identity(recipe.teacher.model, recipe.teacher.revision),
    }
    if recipe.student.model is not None:
        found["student"] = models.identity(recipe.student.model, recipe.student.revision)
    return found


def _recorded_identities(run: RunFolder) -> dict[str, str]:
    """What the run's sources were when it was made: they may be gone by now."""
    specs = [record.spec for record in run.records.values()]
    found = {part: spec[part].get("model") for spec in specs for part in ("teacher", "student")
             if part in spec}  # fmt: skip
    found["data"] = next((spec["data"]["dataset"] for spec in specs if "data" in spec), "")
    return found


def _reason(
    stage: Stage, spec: Mapping[str, Any], key: str, run: RunFolder, redone: str | None
) -> str | None:
    record = run.records.get(stage.name)
    if record is None:
        return "not done yet"
    changed = _first_difference(record.spec, spec)
    if changed:
        return changed
    if redone:
        return f"{redone} is done again"
    if record.key != key:
        return "made from other inputs, or by another version of kd"
    return run.fault(stage.name, stage.artifact)


def _first_difference(old: Any, new: Any, path: str = "") -> str | None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: Sequence[Any] = sorted({*old, *new})
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        keys = range(len(old))
    else:
        return None if old == new else f"{path[1:]} was {_short(old)}, is {_short(new)}"
    for key in keys:
        before, after = (_get(value, key) for value in (old, new))
        found = _first_difference(before, after, f"{path}.{key}")
        if found:
            return found
    return None


def _get(value: Any, key: Any) -> Any:
    return value.get(key) if isinstance(value, Mapping) else value[key]


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "…"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    RunFolder.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        # The system frees the lock of a process that is gone: a stale one can't be.
        lock.acquire(blocking=False)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise UsageError(
            f"Another kd is at work in {folder}: {who}.", "Wait for it, or name another --output."
        ) from error
    with lock:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        holder.write_text(text, encoding="utf-8")
        yield
