"""Run a sweep: from a recipe to the Pareto front and the best student."""

import json
import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli import plugins
from kdcli.errors import KdError, RecipeError, ResourceError, UsageError, UserError
from kdcli.evaluation.ci.quality_gates import QualityGate
from kdcli.models import layer_stacks
from kdcli.onnx_export.precision_gates import find_exported_file
from kdcli.path_resolution import expand_local_path
from kdcli.pipeline.locks import shared_work_lock
from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.pipeline.planning import source_cache_keys
from kdcli.pipeline.preflight import ValidatedInputs, validate_inputs
from kdcli.pipeline.run_estimate import estimate_stages
from kdcli.pipeline.run_folder import RunFolder
from kdcli.pipeline.runner import run_pipeline
from kdcli.progress import Reporter, SilentReporter
from kdcli.recipe.loading import dump_recipe, recipe_for_trial
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep import SearchSpace, values_to_validate
from kdcli.sweep.optuna_storage import (
    BEST_RECIPE_FILE,
    PLOT_FILE,
    RESULT_FILE,
    SweepStudy,
    delete_sweep_files,
    require_optuna,
)
from kdcli.sweep.pareto import choose_student, pareto_frontier, time_models
from kdcli.sweep.result import SweepResult
from kdcli.sweep.search_space import default_or_stated_space, recipe_values_in_space, space_to_json
from kdcli.sweep.trials import Trial
from kdcli.sweep.worker import SweepContext, SweepWorker


def sweep_folder_path(recipe: Recipe, output: Path | None = None) -> Path:
    """Get the sweep's folder; by default `runs/NAME-sweep`."""
    return expand_local_path(str(output or f"runs/{recipe.name}-sweep"))


@dataclass(frozen=True)
class SweepPlan:
    """Search space of a sweep, and about how long it takes.

    Attributes:
        space: The search space.
        shared_seconds: Time for the teacher and its outputs, from scratch.
        trial_seconds: Time for a trial of the recipe's own student that isn't pruned.
    """

    space: SearchSpace
    shared_seconds: float
    trial_seconds: float


def plan_sweep(
    recipe: Recipe, reporter: Reporter, options: RunOptions = DEFAULT_OPTIONS
) -> SweepPlan:
    """Get the search space of a recipe, validate it, and estimate the time.

    Raises:
        KdError: Data or models are missing or unusable.
    """
    _refuse_black_box(recipe)
    inputs = validate_inputs(recipe, reporter, options, load_weights=False)
    recipe = recipe.with_default_losses(inputs.dataset_splits.task)
    space = _validated_search_space(recipe, inputs, allow_pickle=options.allow_pickle)
    seconds = {
        stage: cost.get("seconds", 0.0) for stage, cost in estimate_stages(recipe, inputs).items()
    }
    return SweepPlan(space, seconds["teacher"] + seconds["outputs"], seconds["distill"])


def run_sweep(
    config: SweepContext,
    reporter: Reporter,
    *,
    max_minutes: float | None = None,
    workers: int = 1,
    target: QualityGate | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Train many students of one teacher, and choose the best.

    A sweep resumes from the trials in its folder. Other processes may run the same sweep.

    Args:
        config: The sweep's configuration; its space is set here.
        reporter: Receives the progress of each trial.
        max_minutes: Time after which no trial starts; None for no limit.
        workers: Number of parallel processes.
        target: Lower bound of the primary metric on validation, for which to choose the cheapest
            student.
        fresh: Delete an earlier sweep in the folder.

    Returns:
        The content of `sweep.json`, see docs/guides/sweep.md.

    Raises:
        KdError: The sweep can't start or go on; finished trials stay.
    """
    start = time.time()
    require_optuna()
    recipe, folder = config.recipe, config.folder
    _refuse_black_box(recipe)
    RunFolder.open(folder)
    inputs = validate_inputs(recipe, reporter, config.options, load_weights=False)
    task = inputs.dataset_splits.task
    if target is not None and target.metric != task.primary_metric:
        raise UsageError(
            f"--target {target}: the primary metric of {task} is {task.primary_metric}."
        )
    recipe = recipe.with_default_losses(task)
    space = _validated_search_space(recipe, inputs, allow_pickle=config.options.allow_pickle)
    config = replace(config, recipe=recipe, space=space)
    folder.mkdir(parents=True, exist_ok=True)
    with shared_work_lock(folder / ".shared", reporter):
        if fresh:
            delete_sweep_files(folder)
        study = SweepStudy(folder, config.space, recipe.seed)
        study.start_or_resume(
            _sweep_fingerprint(config), recipe_values_in_space(recipe, config.space)
        )
        # All trials reuse the teacher and its logits.
        run = run_pipeline(
            recipe,
            folder,
            reporter,
            "outputs",
            replace(config.options, fresh=fresh),
        )
    config = replace(config, deadline=None if max_minutes is None else start + 60 * max_minutes)
    with _worker_processes(config, workers - 1):
        SweepWorker(config, reporter, inputs).run_trials(wait_for_others=True)
    with shared_work_lock(folder / ".shared", reporter):
        return _write_sweep_result(
            config, run, inputs, None if target is None else target.limit, reporter
        )


def _refuse_black_box(recipe: Recipe) -> None:
    if recipe.black_box_teacher is not None:
        raise RecipeError(
            "teacher: a sweep times students against their teacher, and can't time a black box.",
            "Run kd distill instead.",
        )


def _validated_search_space(
    recipe: Recipe, inputs: ValidatedInputs, *, allow_pickle: bool
) -> SearchSpace:
    """Get the search space, and check each student that one of its keys alone describes."""
    assert inputs.teacher is not None, "_refuse_black_box comes first"
    space = default_or_stated_space(recipe, layer_stacks.find_layer_stacks(inputs.teacher)[0].depth)
    for key, values in space.items():
        for value in values_to_validate(values) if key.startswith("student") else ():
            try:
                inputs.student_for_recipe(
                    recipe_for_trial(recipe, {key: value}), allow_pickle=allow_pickle
                )
            except UserError as error:
                raise RecipeError(
                    f"sweep: {key}: {json.dumps(value)}: {error.message}", error.hint
                ) from error
    return space


def _sweep_fingerprint(config: SweepContext) -> dict[str, Any]:
    recipe = config.recipe.model_dump(mode="json")
    parts = {part: recipe[part] for part in ("data", "teacher", "student", "distill", "seed")}
    return parts | {
        "sweep": space_to_json(config.space),
        "sources": source_cache_keys(config.recipe),
    }


@contextmanager
def _worker_processes(config: SweepContext, count: int) -> Iterator[None]:
    """Run the sweep in `count` more processes within the block, and join them at its end.

    Raises:
        KdError: The error of the first process that failed.
    """
    if count < 1:
        yield
        return
    import torch

    threads = max(1, torch.get_num_threads() // (count + 1))
    torch.set_num_threads(threads)
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    processes = [
        context.Process(target=_worker_process_main, args=(config, threads, failures))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if not failures.empty():
        raise failures.get()
    if any(process.exitcode for process in processes):
        raise ResourceError(
            "A worker of the sweep was killed.",
            "If memory is short, use fewer --workers. Run the same command again to resume.",
        )


def _worker_process_main(config: SweepContext, threads: int, failures: Any) -> None:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    require_optuna()
    plugins.set_code_allowed(config.options.allow_code)
    try:
        SweepWorker(config, SilentReporter()).run_trials(wait_for_others=False)
    except KdError as error:
        failures.put(error)
    except KeyboardInterrupt:
        return  # the main process reports it


def _export_students(
    config: SweepContext, trials: Sequence[Trial], reporter: Reporter
) -> dict[str, tuple[str, Path]]:
    """Export the student of each trial, if the recipe asks for it.

    Returns:
        Name and file of each export, by name of the trial.
    """
    exports: dict[str, tuple[str, Path]] = {}
    for trial in trials if config.recipe.export is not None else ():
        reporter.start("export", f"export the student of {trial.name}")
        recipe = recipe_for_trial(config.recipe, trial.settings)
        folder = config.folder / trial.folder
        run_pipeline(recipe, folder, SilentReporter(), "export", config.options)
        found = find_exported_file(folder / "student")
        assert found is not None, "the stage wrote it"
        suffix, file = found
        exports[trial.name] = f"{trial.name}{suffix}", file
    return exports


def _write_sweep_result(
    config: SweepContext,
    run: RunFolder,
    inputs: ValidatedInputs,
    target: float | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Time the trials on the Pareto front, choose a student, and write the result."""
    study = SweepStudy(config.folder, config.space, config.recipe.seed)
    kept, trials = study.delete_dominated_trials(), study.trials()
    if not kept:
        failures = [trial.why for trial in trials if trial.why]
        raise UsageError(
            f"None of the {len(trials)} trials in {config.folder} was finished"
            + (f"; {len(failures)} failed, the last one with: {failures[-1]}" if failures else "."),
            "Set more --trials or --minutes, or another search space (sweep: in the recipe).",
        )
    exports = _export_students(config, kept, reporter)
    timed_models = time_models(
        config.recipe, run, kept, inputs.dataset_splits, reporter, exports=exports
    )
    frontier = pareto_frontier(timed_models)
    task = inputs.dataset_splits.task
    result = SweepResult(
        config, trials, timed_models, frontier, choose_student(frontier, target), target, task
    )
    document = result.to_json()
    run.write_text(RESULT_FILE, json.dumps(document, indent=2) + "\n")
    run.write_text(PLOT_FILE, result.plot_svg())
    if result.chosen is None:
        (config.folder / BEST_RECIPE_FILE).unlink(missing_ok=True)
    else:
        values = result.trial_of(result.chosen).settings
        run.write_text(BEST_RECIPE_FILE, dump_recipe(recipe_for_trial(config.recipe, values)))
    return document
