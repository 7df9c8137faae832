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

from kdcli import distributed
from kdcli.errors import ResourceError, RunInterruptedError, UsageError, signal_number_of
from kdcli.pipeline.locks import run_folder_lock, shared_work_lock
from kdcli.pipeline.planning import (
    STAGES,
    StagePlan,
    plan_stages,
    recorded_source_cache_keys,
    refuse_run_folder_in_data,
    source_cache_keys,
    stages_until,
    upstream_stages,
)
from kdcli.pipeline.run_folder import (
    MANIFEST_FILE,
    NOTES_FILE,
    RECIPE_FILE,
    SEEDS_FILE,
    WORK_FOLDER,
    CheckpointInterval,
    RunFolder,
    StageContext,
    StageRecord,
    file_digests,
)
from kdcli.progress import Reporter
from kdcli.recipe.loading import dump_recipe, load_recipe
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.safe_files import is_inside


def run_pipeline(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    until: str = "card",
    *,
    fresh: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    checkpoint_every: CheckpointInterval = CheckpointInterval(),
    validated: bool = False,
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
        validated: Whether data and models are known to be usable.

    Returns:
        The run folder, with the record of every stage up to `until`.

    Raises:
        KdError: With what to do about it; stages that were finished stay.
    """
    with ExitStack() as held, distributed.process_group():

        def begin() -> tuple[RunFolder, list[StagePlan]]:
            refuse_run_folder_in_data(recipe, folder)
            identities = source_cache_keys(recipe)
            beforehand = plan_stages(
                recipe, RunFolder.open(folder), until, fresh=fresh, source_keys=identities
            )
            new = [item.stage.name for item in beforehand if item.reason]
            if not validated and set(new) - {"page", "card"}:
                from kdcli.pipeline.preflight import validate_inputs

                # What can't be used has to be said while the folder is as it was.
                validate_inputs(
                    recipe,
                    reporter,
                    allow_pickle=allow_pickle,
                    allow_code=allow_code,
                    allow_endpoints=allow_endpoints,
                )
            held.enter_context(run_folder_lock(folder))
            run = RunFolder.open(folder)
            todo = plan_stages(recipe, run, until, fresh=fresh, source_keys=identities)
            if fresh:
                shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
            if any(item.reason for item in todo):
                _save_card_notes(run)
                run.write_text(RECIPE_FILE, dump_recipe(recipe))
                _report_first_change(todo, run, reporter)
                # Also what is made of what is made anew: a run that breaks off must not reuse it.
                run.forget_stages(item.stage.name for item in todo if item.reason)
            return run, todo

        run, todo = distributed.broadcast_from_rank0(begin)

        def work_on(item: StagePlan) -> None:
            others: tuple[Path, ...] = ()
            if item.stage.name == "outputs":
                others = _run_other_teachers(
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
                    other_teacher_runs=others,
                    checkpoint_every=checkpoint_every,
                    allow_pickle=allow_pickle,
                    allow_code=allow_code,
                    allow_endpoints=tuple(allow_endpoints),
                )
            except KeyboardInterrupt as error:
                raise RunInterruptedError(
                    f"Stopped in stage {item.stage.name}; the stages before it are kept.",
                    "Run the same command again to go on.",
                    signal_number_of(error),
                ) from error

        for item in todo:
            if item.reason is None:
                seconds = run.records[item.stage.name].seconds
                reporter.finish(item.stage.name, "reused", seconds)
            elif fresh or not item.stage.reusable_across_runs:
                work_on(item)
            else:
                _reuse_or_run_stage(item, run, reporter, work_on)
        if distributed.is_main_process():
            shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return run


def repeat_with_seeds(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    seeds: int,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    checkpoint_every: CheckpointInterval = CheckpointInterval(),
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
    from kdcli.evaluation.uncertainty.seed_variance import aggregate_seeds

    first = recipe.student_seed
    run = RunFolder.open(folder)
    found = {first: run.records["evaluate"].result}
    for seed in range(first + 1, first + seeds):
        reporter.info(f"Seed {seed}: the student is trained again.")
        distill = recipe.distill.model_copy(update={"seed": seed})
        again = recipe.model_copy(update={"distill": distill})
        beside = folder.with_name(f"{folder.name}-seed{seed}")
        made = run_pipeline(
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
    spread = aggregate_seeds(found)
    if distributed.is_main_process():
        run.write_text(SEEDS_FILE, json.dumps(spread, indent=2) + "\n")
    return spread


def find_latest_run(folder: Path) -> Path:
    """The run below `folder` that was worked on last.

    Raises:
        UsageError: There is none.
    """
    manifests = sorted(folder.glob(f"*/{MANIFEST_FILE}"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise UsageError(
            f"There is no run in {folder}.", "Name one, or start it: kd distill RECIPE."
        )
    return manifests[-1].parent


def load_run_recipe(folder: Path) -> Recipe:
    """The recipe that a run was made with.

    Raises:
        UsageError: The folder is no run's, or a link lies where kd writes.
    """
    RunFolder.open(folder)
    if not (folder / RECIPE_FILE).is_file():
        raise UsageError(
            f"{folder} is no run: it has no {RECIPE_FILE}.", "Start one: kd distill RECIPE."
        )
    return load_recipe(str(folder / RECIPE_FILE))


def rewrite_reports(folder: Path, reporter: Reporter) -> Path:
    """Write card and page of a finished run again, from what was measured.

    Returns:
        The student's folder, with the card in it.

    Raises:
        UsageError: The folder is no run's, or the run isn't finished, or was changed since.
    """
    recipe = load_run_recipe(folder)
    with run_folder_lock(folder):
        run = RunFolder.open(folder)
        *before, page, card = plan_stages(recipe, run, source_keys=recorded_source_cache_keys(run))
        for item in before:
            if item.reason:
                raise UsageError(
                    f"The run {folder} isn't whole: stage {item.stage.name}: {item.reason}.",
                    f"Finish it: kd distill {folder / RECIPE_FILE} --output {folder}.",
                )
        _save_card_notes(run)
        for item in (page, card):
            _run_stage(item, recipe, run, reporter)
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
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


def _report_first_change(plans: Sequence[StagePlan], run: RunFolder, reporter: Reporter) -> None:
    """Why the first of the finished stages is done again: those after it follow from that."""
    done = (item for item in plans if item.reason and item.stage.name in run.records)
    if first := next(done, None):
        reporter.info(f"Stage {first.stage.name} is done again: {first.reason}.")


def _save_card_notes(run: RunFolder) -> None:
    """The card lies in the student's folder, and goes with it: what a person wrote there stays."""
    from kdcli.report import card_notes

    card_notes.save_card_notes(run.path / STAGES[-1].artifact, run.path / NOTES_FILE)


def _run_other_teachers(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    *,
    fresh: bool,
    checkpoint_every: CheckpointInterval,
    allow_pickle: bool,
) -> tuple[Path, ...]:
    """The run folders of a recipe's other teachers, each with what that one told.

    They lie beside the run's own, so that another run with the same teacher finds them.
    """
    found = []
    also = () if recipe.white_box_teacher is None else recipe.white_box_teacher.ensemble_with
    for number, spec in enumerate(also, 2):
        reporter.info(f"Teacher {number}, {spec.model}:")
        beside = folder.with_name(f"{folder.name}-teacher{number}")
        alone = recipe.model_copy(update={"teacher": ClassifierTeacherConfig(**dict(spec))})
        run_pipeline(
            alone,
            beside,
            reporter,
            "outputs",
            fresh=fresh,
            checkpoint_every=checkpoint_every,
            allow_pickle=allow_pickle,
            # With the first, and the recipe's student can't be cut out of each.
            validated=True,
        )
        found.append(beside)
    return tuple(found)


def _reuse_or_run_stage(
    plan: StagePlan, run: RunFolder, reporter: Reporter, run_stage: Callable[[StagePlan], None]
) -> None:
    """Two runs that need the same teacher: one of them makes it."""
    stage = plan.stage
    with ExitStack() as held:

        def take_over() -> StageRecord | None:
            held.enter_context(
                shared_work_lock(run.path.parent / f".{stage.name}-{plan.key}", reporter)
            )
            return run.reuse_from_other_run(stage.name, stage.artifact, plan.key)

        record = distributed.broadcast_from_rank0(take_over)
        if record is None:
            run_stage(plan)
        else:
            run.records[stage.name] = record
            reporter.info(
                f"Another run has done stage {stage.name} already: its outcome is copied."
            )
            reporter.finish(stage.name, "reused", record.seconds)


def _run_stage(
    plan: StagePlan,
    recipe: Recipe,
    run: RunFolder,
    reporter: Reporter,
    *,
    other_teacher_runs: tuple[Path, ...] = (),
    checkpoint_every: CheckpointInterval = CheckpointInterval(),
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: tuple[str, ...] = (),
) -> None:
    stage = plan.stage
    reporter.start(stage.name, stage.description)
    build, scratch = distributed.broadcast_from_rank0(
        lambda: run.prepare_workdir(stage.name, plan.key)
    )
    if not build.is_dir():
        raise ResourceError(
            f"{socket.gethostname()} doesn't see {build}, which another machine of this run made.",
            "Name an --output on a disk that all of them share.",
        )
    job = StageContext(
        recipe=recipe,
        artifacts={
            s.name: run.path / s.artifact
            for s in stages_until("card", recipe)
            if s.name in run.records
        },
        stage_results={name: record.result for name, record in run.records.items()},
        stage_seconds={n: run.records[n].seconds for n in upstream_stages(stage, recipe)},
        output=build / Path(stage.artifact).name,
        scratch=scratch,
        logs=run.path / "logs",
        notes_file=run.path / NOTES_FILE,
        reporter=reporter,
        other_teacher_runs=other_teacher_runs,
        checkpoint_every=checkpoint_every,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=allow_endpoints,
    )

    def work() -> Mapping[str, Any]:
        function: Callable[[StageContext], Mapping[str, Any]] = resolve_name(stage.entry_point)
        return function(job)

    start = time.monotonic()
    result = work() if stage.all_processes else distributed.broadcast_from_rank0(work)
    seconds = time.monotonic() - start

    def publish() -> StageRecord:
        record = StageRecord(plan.key, plan.spec, file_digests(job.output), result, seconds)
        run.publish_artifact(stage.name, stage.artifact, job.output, record)
        return record

    run.records[stage.name] = distributed.broadcast_from_rank0(publish)
    reporter.finish(stage.name, "done", seconds)
