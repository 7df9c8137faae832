"""The core: the stages in order, what is already done, and how to do the rest."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from kdcli import processes
from kdcli.errors import MachineError, StoppedError, UsageError
from kdcli.progress import Reporter
from kdcli.recipe.load import dump, load
from kdcli.recipe.schema import Recipe
from kdcli.run import (
    MANIFEST,
    NOTES,
    RECIPE,
    SEEDS,
    WORK,
    Cadence,
    Job,
    Record,
    RunFolder,
    inventory,
    stage_key,
)


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


STAGES = (
    Stage("teacher", "fine-tune the teacher", "teacher", (), ("data", "teacher", "seed"),
          "kdcli.stages.teacher:run", together=True, costly=True),
    Stage("student", "cut out the student", "student-init", ("teacher",),
          ("data", "student", "seed"), "kdcli.stages.student:run", version=2),
    Stage("outputs", "ask the teacher", "teacher-outputs", ("teacher",), ("data",),
          "kdcli.stages.outputs:run", together=True, costly=True),
    Stage("distill", "train the student", "student", ("student", "outputs"),
          ("data", "distill", "seed"), "kdcli.stages.distill:run", together=True),
    Stage("baseline", "train the student on labels alone", "baseline", ("student",),
          ("data", "distill", "seed"), "kdcli.stages.distill:run_baseline",
          besides=("distill.losses",), when="baseline", together=True),
    Stage("evaluate", "measure them", "evaluation.json", ("teacher", "distill", "baseline"),
          ("data", "evaluate"), "kdcli.stages.evaluate:run", version=2),
    Stage("settings", "note temperature and threshold", "student/kd.json", ("evaluate",), (),
          "kdcli.stages.settings:run"),
    Stage("page", "draw the page", "report.html", ("evaluate",),
          ("name", "card"), "kdcli.stages.page:run"),
    Stage("card", "write the card", "student/README.md", ("evaluate",),
          ("name", "card"), "kdcli.stages.card:run", version=2),
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
    for stage in _stages_until(until, recipe):
        spec = _spec(stage, recipe, identities)
        needs = [name for name in stage.needs if name in planned]
        key = stage_key(stage.name, stage.version, spec, [planned[n].key for n in needs])
        redone = next((n for n in needs if planned[n].reason), None)
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
    allow_pickle: bool = False,
    checkpoint_every: Cadence = Cadence(),
) -> RunFolder:
    """Run the pipeline up to a stage; what is done already for the same inputs is reused.

    Where it is called in several processes, the first one plans and writes.

    Args:
        recipe: The validated recipe.
        folder: The run's folder.
        reporter: Told of every stage and step.
        until: The last stage to run.
        fresh: Do everything anew, from no checkpoint.
        allow_pickle: Also read weights that are a pickle.
        checkpoint_every: How often training writes one.

    Returns:
        The run folder, with the record of every stage up to `until`.

    Raises:
        KdError: With what to do about it; stages that were finished stay.
    """
    with ExitStack() as held, processes.joined():

        def begin() -> tuple[RunFolder, list[Planned]]:
            identities = _identities(recipe)
            beforehand = _plan(recipe, identities, RunFolder.open(folder), until, fresh=fresh)
            if any(item.reason for item in beforehand if item.stage.name not in ("page", "card")):
                from kdcli.stages.inputs import look

                # What can't be used has to be said while the folder is as it was.
                look(recipe, reporter, allow_pickle=allow_pickle)
            held.enter_context(_locked(folder))
            run = RunFolder.open(folder)
            todo = _plan(recipe, identities, run, until, fresh=fresh)
            if fresh:
                shutil.rmtree(folder / WORK, ignore_errors=True)
            if any(item.reason for item in todo):
                _keep_notes(run)
                run.write_text(RECIPE, dump(recipe))
                # Also what is made of what is made anew: a run that breaks off must not reuse it.
                run.forget(item.stage.name for item in todo if item.reason)
            return run, todo

        run, todo = processes.from_first(begin)

        def work_on(item: Planned) -> None:
            _run_stage(
                item,
                recipe,
                run,
                reporter,
                checkpoint_every=checkpoint_every,
                allow_pickle=allow_pickle,
            )

        for item in todo:
            if item.reason is None:
                seconds = run.records[item.stage.name].seconds
                reporter.finish(item.stage.name, "reused", seconds)
            elif fresh or not item.stage.costly:
                work_on(item)
            else:
                _take_over_or_run(item, run, reporter, work_on)
        if processes.is_first():
            shutil.rmtree(folder / WORK, ignore_errors=True)
    return run


def repeat(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    seeds: int,
    *,
    allow_pickle: bool = False,
    checkpoint_every: Cadence = Cadence(),
) -> dict[str, Any]:
    """Train a finished run's student again with other seeds, each in a run folder beside it.

    The teacher stays: what is told is how much of the student's figures is chance.

    Args:
        recipe: That of the run.
        folder: The run's folder; the others are called after it and their seed.
        reporter: Told of every stage and step.
        seeds: How many there are to be, the run's own included.
        allow_pickle: Also read weights that are a pickle.
        checkpoint_every: How often training writes a checkpoint.

    Returns:
        What `seeds.json` in the run's folder holds: see `kdcli.evaluation.spread.over_seeds`.
    """
    from kdcli.evaluation.spread import over_seeds

    first = recipe.seed if recipe.distill.seed is None else recipe.distill.seed
    run = RunFolder.open(folder)
    found = {first: run.records["evaluate"].result}
    for seed in range(first + 1, first + seeds):
        reporter.say(f"Seed {seed}: the student is trained again.")
        distill = recipe.distill.model_copy(update={"seed": seed})
        again = recipe.model_copy(update={"distill": distill})
        beside = folder.with_name(f"{folder.name}-seed{seed}")
        made = execute(
            again,
            beside,
            reporter,
            "evaluate",
            allow_pickle=allow_pickle,
            checkpoint_every=checkpoint_every,
        )
        found[seed] = made.records["evaluate"].result
    spread = over_seeds(found)
    if processes.is_first():
        run.write_text(SEEDS, json.dumps(spread, indent=2) + "\n")
    return spread


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
    """Write card and page of a finished run again, from what was measured.

    Returns:
        The student's folder, with the card in it.

    Raises:
        UsageError: The folder is no run's, or the run isn't finished, or was changed since.
    """
    recipe = recipe_of(folder)
    with _locked(folder):
        run = RunFolder.open(folder)
        *before, page, card = _plan(recipe, _recorded_identities(run), run, "card", fresh=False)
        for item in before:
            if item.reason:
                raise UsageError(
                    f"The run {folder} isn't whole: stage {item.stage.name}: {item.reason}.",
                    f"Finish it: kd distill {folder / RECIPE} --output {folder}.",
                )
        _keep_notes(run)
        for item in (page, card):
            _run_stage(item, recipe, run, reporter)
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return folder / "student"


def _keep_notes(run: RunFolder) -> None:
    """The card lies in the student's folder, and goes with it: what a person wrote there stays."""
    from kdcli.report import notes

    notes.collect(run.path / STAGES[-1].artifact, run.path / NOTES)


def _take_over_or_run(
    item: Planned, run: RunFolder, reporter: Reporter, work_on: Callable[[Planned], None]
) -> None:
    """Two runs that need the same teacher: one of them makes it."""
    stage = item.stage
    with ExitStack() as held:

        def take_over() -> Record | None:
            held.enter_context(_only_one(run.path.parent / f".{stage.name}-{item.key}", reporter))
            return run.take_over(stage.name, stage.artifact, item.key)

        record = processes.from_first(take_over)
        if record is None:
            work_on(item)
        else:
            run.records[stage.name] = record
            reporter.say(f"Another run has done stage {stage.name} already: its outcome is copied.")
            reporter.finish(stage.name, "reused", record.seconds)


def _run_stage(
    item: Planned,
    recipe: Recipe,
    run: RunFolder,
    reporter: Reporter,
    *,
    checkpoint_every: Cadence = Cadence(),
    allow_pickle: bool = False,
) -> None:
    stage = item.stage
    reporter.start(stage.name, stage.doing)
    build, scratch = processes.from_first(lambda: run.workdir(stage.name, item.key))
    if not build.is_dir():
        raise MachineError(
            f"{socket.gethostname()} doesn't see {build}, which another machine of this run made.",
            "Name an --output on a disk that all of them share.",
        )
    job = Job(
        recipe=recipe,
        inputs={
            s.name: run.path / s.artifact
            for s in _stages_until("card", recipe)
            if s.name in run.records
        },
        results={name: record.result for name, record in run.records.items()},
        seconds={n: run.records[n].seconds for n in _needed(stage, recipe)},
        output=build / Path(stage.artifact).name,
        scratch=scratch,
        logs=run.path / "logs",
        notes=run.path / NOTES,
        reporter=reporter,
        checkpoint_every=checkpoint_every,
        allow_pickle=allow_pickle,
    )

    def work() -> Mapping[str, Any]:
        function: Callable[[Job], Mapping[str, Any]] = resolve_name(stage.work)
        return function(job)

    start = time.monotonic()
    try:
        result = work() if stage.together else processes.from_first(work)
    except KeyboardInterrupt as error:
        raise StoppedError(
            f"Stopped in stage {stage.name}; the stages before it are kept.",
            "Run the same command again to go on.",
        ) from error
    seconds = time.monotonic() - start

    def publish() -> Record:
        record = Record(item.key, item.spec, inventory(job.output), result, seconds)
        run.publish(stage.name, stage.artifact, job.output, record)
        return record

    run.records[stage.name] = processes.from_first(publish)
    reporter.finish(stage.name, "done", seconds)


def _needed(stage: Stage, recipe: Recipe) -> list[str]:
    """The stages that one builds on, at first or second hand, in their order."""
    stages, names = _stages_until(stage.name, recipe), set(stage.needs)
    for other in reversed(stages):
        if other.name in names:
            names |= set(other.needs)
    return [other.name for other in stages if other.name in names]


def _stages_until(name: str, recipe: Recipe) -> Sequence[Stage]:
    stages = [stage for stage in STAGES if stage.when is None or getattr(recipe, stage.when)]
    names = [stage.name for stage in stages]
    return stages[: names.index(name) + 1]


def _spec(stage: Stage, recipe: Recipe, identities: Mapping[str, str]) -> dict[str, Any]:
    whole = recipe.model_dump(mode="json")
    spec = {part: whole[part] for part in stage.spec}
    for key in stage.besides:
        part, _, name = key.partition(".")
        del spec[part][name]
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
    parts = ("teacher", "student")
    found = dict.fromkeys(parts, "")
    found |= {part: spec[part].get("model") for spec in specs for part in parts if part in spec}
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
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        holder.write_text(text, encoding="utf-8")
        yield
    finally:
        lock.release()


@contextmanager
def _only_one(work: Path, reporter: Reporter) -> Iterator[None]:
    """Within the block no other run does the same work."""
    from filelock import FileLock, Timeout

    lock = FileLock(work.with_suffix(".lock"))
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            reporter.say("Another run is doing the same work: waiting for its outcome.")
            lock.acquire()
    except OSError:
        # Next to a run folder that stands alone, nothing may be written: nobody shares it.
        yield
        return
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
