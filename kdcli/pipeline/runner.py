"""Run the stages of a plan, one after the other."""

import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kdcli import distributed
from kdcli.data.shared_loading import share_loaded_datasets
from kdcli.errors import ResourceError, RunInterruptedError, signal_number_of
from kdcli.pipeline.locks import run_folder_lock, shared_work_lock
from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.pipeline.planning import (
    plan_stages,
    refuse_run_folder_in_data,
    source_cache_keys,
    upstream_stages,
)
from kdcli.pipeline.run_folder import NOTES_FILE, RECIPE_FILE, WORK_FOLDER, RunFolder, StageRecord
from kdcli.pipeline.stage import RequiredRun, StageContext, StagePlan
from kdcli.progress import Reporter
from kdcli.recipe.loading import dump_recipe
from kdcli.recipe.schema import Recipe
from kdcli.safe_files import file_digests
from kdcli.stages import all_stages, enabled_stages


def run_pipeline(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    until: str | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
    *,
    validated: bool = False,
) -> RunFolder:
    """Run the pipeline up to a stage, and reuse what is done already for the same inputs.

    If several processes call it, the first one plans and writes.

    Args:
        recipe: The validated recipe.
        folder: The run's folder.
        reporter: Receives every stage and step.
        until: The last stage to run; None runs all of them.
        options: How to run them.
        validated: Skip the check of data and models.

    Returns:
        The run folder, with the record of every stage up to `until`.

    Raises:
        KdError: A stage can't run; finished stages are kept.
    """
    with ExitStack() as locks, distributed.process_group(), share_loaded_datasets():
        run, plans = distributed.broadcast_from_rank0(
            lambda: _begin_run(
                recipe, folder, reporter, until, options, locks=locks, validated=validated
            )
        )
        for plan in plans:
            if plan.reason is None:
                reporter.finish(plan.stage.name, "reused", run.records[plan.stage.name].seconds)
                continue
            # Two runs that need the same teacher: one of them makes it, the other one waits.
            with ExitStack() as shared_lock:
                alone = options.fresh or not plan.stage.reusable_across_runs
                if alone or not _reuse_from_other_run(plan, run, reporter, shared_lock):
                    run_stage(plan, recipe, run, reporter, options)
        if distributed.is_main_process():
            shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return run


def run_stage(
    plan: StagePlan,
    recipe: Recipe,
    run: RunFolder,
    reporter: Reporter,
    options: RunOptions = DEFAULT_OPTIONS,
) -> None:
    """Run one stage, and publish its artifact and record.

    Raises:
        KdError: The stage can't run.
        RunInterruptedError: Ctrl-C or SIGTERM.
    """
    stage = plan.stage
    required_runs = tuple(
        _run_required(required, run.path, reporter, options)
        for required in stage.required_runs(recipe)
    )
    try:
        reporter.start(stage.name, stage.description)
        context = _create_context(plan, recipe, run, reporter, options, required_runs=required_runs)
        start = time.monotonic()
        if stage.all_processes:
            result = stage.run(context)
        else:
            result = distributed.broadcast_from_rank0(lambda: stage.run(context))
        seconds = time.monotonic() - start
        run.records[stage.name] = distributed.broadcast_from_rank0(
            lambda: _publish(plan, run, context.output, result, seconds)
        )
        reporter.finish(stage.name, "done", seconds)
    except KeyboardInterrupt as error:
        raise RunInterruptedError(
            f"Stopped in stage {stage.name}; the stages before it are kept.",
            "Run the same command again to go on.",
            signal_number_of(error),
        ) from error


def preserve_user_edits(run_folder: Path) -> None:
    """Save what the user wrote into artifacts, before any of them is replaced."""
    for stage in all_stages():
        stage.preserve_user_edits(run_folder)


def _begin_run(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    until: str | None,
    options: RunOptions,
    *,
    locks: ExitStack,
    validated: bool,
) -> tuple[RunFolder, list[StagePlan]]:
    """Plan the run, check its inputs, lock its folder and write its recipe."""
    refuse_run_folder_in_data(recipe, folder)
    sources, fresh = source_cache_keys(recipe), options.fresh
    plans = plan_stages(recipe, RunFolder.open(folder), until, fresh=fresh, source_keys=sources)
    estimates: dict[str, dict[str, Any]] = {}
    if not validated and any(p.reason and not p.stage.only_reports for p in plans):
        from kdcli.pipeline.preflight import validate_inputs
        from kdcli.pipeline.run_estimate import estimate_stages

        # Unusable inputs have to be reported while the folder is as it was.
        inputs = validate_inputs(recipe, reporter, options)
        for plan in plans:
            plan.stage.validate(recipe, inputs)
        estimates = estimate_stages(recipe, inputs)
    locks.enter_context(run_folder_lock(folder))
    run = RunFolder.open(folder)
    plans = plan_stages(recipe, run, until, fresh=fresh, source_keys=sources)
    if fresh:
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    if any(plan.reason for plan in plans):
        preserve_user_edits(run.path)
        run.write_text(RECIPE_FILE, dump_recipe(recipe))
        _report_first_change(plans, run, reporter)
        # An interrupted run must not reuse what depends on a stage that runs again.
        run.forget_stages(
            [
                *(plan.stage.name for plan in plans if plan.reason),
                *_dropped_student_files(recipe, run),
            ]
        )
    if not validated:
        reporter.begin_run(
            {
                plan.stage.name: estimates.get(plan.stage.name, {}).get("seconds", 0.0)
                if plan.reason
                else 0.0
                for plan in plans
            }
        )
    return run, plans


def _dropped_student_files(recipe: Recipe, run: RunFolder) -> list[str]:
    """List recorded stages that the recipe no longer has, whose files would still be published."""
    enabled = {stage.name for stage in enabled_stages(recipe)}
    return [
        stage.name
        for stage in all_stages()
        if stage.name in run.records
        and stage.name not in enabled
        and len(Path(stage.artifact).parts) > 1
    ]


def _create_context(
    plan: StagePlan,
    recipe: Recipe,
    run: RunFolder,
    reporter: Reporter,
    options: RunOptions,
    *,
    required_runs: tuple[Path, ...],
) -> StageContext:
    stage = plan.stage
    build, scratch = distributed.broadcast_from_rank0(
        lambda: run.prepare_workdir(stage.name, plan.key)
    )
    if not build.is_dir():
        raise ResourceError(
            f"{socket.gethostname()} doesn't see {build}, which another machine of this run made.",
            "Name an --output on a disk that all of them share.",
        )
    return StageContext(
        recipe=recipe,
        artifacts={
            finished.name: run.path / finished.artifact
            for finished in enabled_stages(recipe)
            if finished.name in run.records
        },
        stage_results={name: record.result for name, record in run.records.items()},
        stage_seconds={n: run.records[n].seconds for n in upstream_stages(stage, recipe)},
        output=build / Path(stage.artifact).name,
        scratch=scratch,
        logs=run.path / "logs",
        notes_file=run.path / NOTES_FILE,
        reporter=reporter,
        options=options,
        required_runs=required_runs,
    )


def _publish(
    plan: StagePlan, run: RunFolder, built: Path, result: Mapping[str, Any], seconds: float
) -> StageRecord:
    record = StageRecord(plan.key, plan.spec, file_digests(built), result, seconds)
    run.publish_artifact(plan.stage.name, plan.stage.artifact, built, record)
    return record


def _run_required(
    required: RequiredRun, folder: Path, reporter: Reporter, options: RunOptions
) -> Path:
    """Finish another run next to this one, so that further runs find its artifacts too."""
    reporter.info(required.message)
    path = folder.with_name(f"{folder.name}{required.suffix}")
    # Its inputs were checked with this run's.
    run_pipeline(required.recipe, path, reporter, required.until, options, validated=True)
    return path


def _reuse_from_other_run(
    plan: StagePlan, run: RunFolder, reporter: Reporter, shared_lock: ExitStack
) -> bool:
    """Copy the artifact of another run, if one has it; else hold the lock for making it."""
    stage = plan.stage
    lock_file = run.path.parent / f".{stage.name}-{plan.key}"

    def copy_artifact() -> StageRecord | None:
        shared_lock.enter_context(shared_work_lock(lock_file, reporter))
        return run.reuse_from_other_run(stage.name, stage.artifact, plan.key)

    record = distributed.broadcast_from_rank0(copy_artifact)
    if record is None:
        return False
    run.records[stage.name] = record
    reporter.info(f"Another run has done stage {stage.name} already: its outcome is copied.")
    reporter.finish(stage.name, "reused", record.seconds)
    return True


def _report_first_change(plans: Sequence[StagePlan], run: RunFolder, reporter: Reporter) -> None:
    """Report why the first finished stage runs again; the later ones follow from it."""
    rerun = (plan for plan in plans if plan.reason and plan.stage.name in run.records)
    if first := next(rerun, None):
        reporter.info(f"Stage {first.stage.name} is done again: {first.reason}.")
