"""The core: doing what is planned, stage after stage."""

import json
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from kdcli import processes
from kdcli.errors import MachineError, StoppedError, UsageError, signal_of
from kdcli.locks import locked, only_one
from kdcli.planning import (
    STAGES,
    Planned,
    apart_from_data,
    identities_of,
    needed,
    plan,
    recorded_identities,
    stages_until,
)
from kdcli.progress import Reporter
from kdcli.recipe.load import dump, load
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import TeacherSpec
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
)
from kdcli.safe_files import is_inside


def execute(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    until: str = "card",
    *,
    fresh: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    checkpoint_every: Cadence = Cadence(),
    looked_at: bool = False,
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
        allow_code: Also run the Python function that the recipe names.
        allow_endpoints: Hosts that the recipe's texts may be sent to, each as HOST, or
            HOST=VARIABLE where that environment variable may be sent too.
        checkpoint_every: How often training writes one.
        looked_at: Whether data and models are known to be usable.

    Returns:
        The run folder, with the record of every stage up to `until`.

    Raises:
        KdError: With what to do about it; stages that were finished stay.
    """
    with ExitStack() as held, processes.joined():

        def begin() -> tuple[RunFolder, list[Planned]]:
            apart_from_data(recipe, folder)
            identities = identities_of(recipe)
            beforehand = plan(
                recipe, RunFolder.open(folder), until, fresh=fresh, identities=identities
            )
            new = [item.stage.name for item in beforehand if item.reason]
            if not looked_at and set(new) - {"page", "card"}:
                from kdcli.stages.inputs import look

                # What can't be used has to be said while the folder is as it was.
                look(
                    recipe,
                    reporter,
                    allow_pickle=allow_pickle,
                    allow_code=allow_code,
                    allow_endpoints=allow_endpoints,
                )
            held.enter_context(locked(folder))
            run = RunFolder.open(folder)
            todo = plan(recipe, run, until, fresh=fresh, identities=identities)
            if fresh:
                shutil.rmtree(folder / WORK, ignore_errors=True)
            if any(item.reason for item in todo):
                _keep_notes(run)
                run.write_text(RECIPE, dump(recipe))
                _say_what_changed(todo, run, reporter)
                # Also what is made of what is made anew: a run that breaks off must not reuse it.
                run.forget(item.stage.name for item in todo if item.reason)
            return run, todo

        run, todo = processes.from_first(begin)

        def work_on(item: Planned) -> None:
            others: tuple[Path, ...] = ()
            if item.stage.name == "outputs":
                others = _other_teachers(
                    recipe,
                    folder,
                    reporter,
                    fresh=fresh,
                    checkpoint_every=checkpoint_every,
                    allow_pickle=allow_pickle,
                )
            try:
                _run_stage(
                    item,
                    recipe,
                    run,
                    reporter,
                    teachers=others,
                    checkpoint_every=checkpoint_every,
                    allow_pickle=allow_pickle,
                    allow_code=allow_code,
                    allow_endpoints=tuple(allow_endpoints),
                )
            except KeyboardInterrupt as error:
                raise StoppedError(
                    f"Stopped in stage {item.stage.name}; the stages before it are kept.",
                    "Run the same command again to go on.",
                    signal_of(error),
                ) from error

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
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    checkpoint_every: Cadence = Cadence(),
) -> dict[str, Any]:
    """Train a finished run's student again with other seeds, each in a run folder beside it.

    The teacher stays: what is told is how much of the student's figures is chance. Each seed draws
    its own initial weights, where some are drawn at random.

    Args:
        recipe: That of the run.
        folder: The run's folder; the others are called after it and their seed.
        reporter: Told of every stage and step.
        seeds: How many there are to be, the run's own included.
        allow_pickle: Also read weights that are a pickle.
        allow_code: Also run the Python function that the recipe names.
        allow_endpoints: Hosts that the recipe's texts may be sent to, each as HOST, or
            HOST=VARIABLE where that environment variable may be sent too.
        checkpoint_every: How often training writes a checkpoint.

    Returns:
        What `seeds.json` in the run's folder holds: see `kdcli.evaluation.spread.over_seeds`.
    """
    from kdcli.evaluation.spread import over_seeds

    first = recipe.student_seed
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
            allow_code=allow_code,
            allow_endpoints=allow_endpoints,
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
        UsageError: The folder is no run's, or a link lies where kd writes.
    """
    RunFolder.open(folder)
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
    with locked(folder):
        run = RunFolder.open(folder)
        *before, page, card = plan(recipe, run, identities=recorded_identities(run))
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


def files_to_publish(folder: Path) -> dict[str, Path]:
    """The files of a finished run's student that its stages made, by their path in a repository.

    What else lies in the student's folder stays on this machine.

    Raises:
        UsageError: The folder is no finished run's.
    """
    run, student = RunFolder.open(folder), Path("student")
    found = {}
    for stage in STAGES:
        artifact = Path(stage.artifact)
        if artifact.parts[:1] != student.parts or stage.name not in run.records:
            continue
        for name in run.records[stage.name].files:
            hidden = any(part.startswith(".") for part in Path(name).parts)
            if is_inside(folder / artifact, name) and not hidden:
                path = artifact / name
                found[path.relative_to(student).as_posix()] = folder / path
    return found


def _say_what_changed(todo: Sequence[Planned], run: RunFolder, reporter: Reporter) -> None:
    """Why the first of the finished stages is done again: those after it follow from that."""
    done = (item for item in todo if item.reason and item.stage.name in run.records)
    if first := next(done, None):
        reporter.say(f"Stage {first.stage.name} is done again: {first.reason}.")


def _keep_notes(run: RunFolder) -> None:
    """The card lies in the student's folder, and goes with it: what a person wrote there stays."""
    from kdcli.report import notes

    notes.collect(run.path / STAGES[-1].artifact, run.path / NOTES)


def _other_teachers(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    *,
    fresh: bool,
    checkpoint_every: Cadence,
    allow_pickle: bool,
) -> tuple[Path, ...]:
    """The run folders of a recipe's other teachers, each with what that one told.

    They lie beside the run's own, so that another run with the same teacher finds them.
    """
    found = []
    also = () if recipe.white_box is None else recipe.white_box.also
    for number, spec in enumerate(also, 2):
        reporter.say(f"Teacher {number}, {spec.model}:")
        beside = folder.with_name(f"{folder.name}-teacher{number}")
        alone = recipe.model_copy(update={"teacher": TeacherSpec(**dict(spec))})
        execute(
            alone,
            beside,
            reporter,
            "outputs",
            fresh=fresh,
            checkpoint_every=checkpoint_every,
            allow_pickle=allow_pickle,
            # With the first, and the recipe's student can't be cut out of each.
            looked_at=True,
        )
        found.append(beside)
    return tuple(found)


def _take_over_or_run(
    item: Planned, run: RunFolder, reporter: Reporter, work_on: Callable[[Planned], None]
) -> None:
    """Two runs that need the same teacher: one of them makes it."""
    stage = item.stage
    with ExitStack() as held:

        def take_over() -> Record | None:
            held.enter_context(only_one(run.path.parent / f".{stage.name}-{item.key}", reporter))
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
    teachers: tuple[Path, ...] = (),
    checkpoint_every: Cadence = Cadence(),
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: tuple[str, ...] = (),
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
            for s in stages_until("card", recipe)
            if s.name in run.records
        },
        results={name: record.result for name, record in run.records.items()},
        seconds={n: run.records[n].seconds for n in needed(stage, recipe)},
        output=build / Path(stage.artifact).name,
        scratch=scratch,
        logs=run.path / "logs",
        notes=run.path / NOTES,
        reporter=reporter,
        teachers=teachers,
        checkpoint_every=checkpoint_every,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=allow_endpoints,
    )

    def work() -> Mapping[str, Any]:
        function: Callable[[Job], Mapping[str, Any]] = resolve_name(stage.work)
        return function(job)

    start = time.monotonic()
    result = work() if stage.together else processes.from_first(work)
    seconds = time.monotonic() - start

    def publish() -> Record:
        record = Record(item.key, item.spec, inventory(job.output), result, seconds)
        run.publish(stage.name, stage.artifact, job.output, record)
        return record

    run.records[stage.name] = processes.from_first(publish)
    reporter.finish(stage.name, "done", seconds)
