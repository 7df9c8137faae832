"""`search`: a sweep from a recipe to its frontier and its best student."""

import json
import multiprocessing
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.errors import KdError, RecipeError, ResourceError, UsageError, UserError
from kdcli.evaluation.ci.quality_gates import QualityGate
from kdcli.models import layer_stacks
from kdcli.pipeline.locks import shared_work_lock
from kdcli.pipeline.planning import source_cache_keys
from kdcli.pipeline.preflight import ValidatedInputs, validate_inputs
from kdcli.pipeline.run_folder import RunFolder
from kdcli.pipeline.runner import run_pipeline
from kdcli.progress import Reporter, SilentReporter
from kdcli.recipe.loading import dump_recipe, recipe_for_trial
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep import SearchSpace, values_to_validate
from kdcli.sweep.optuna_study import (
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
from kdcli.sweep.worker import SweepConfig, SweepWorker


def sweep_folder_path(recipe: Recipe, output: Path | None = None) -> Path:
    """The sweep's folder: what the user named, or `runs/NAME-sweep`."""
    return output if output is not None else Path("runs") / f"{recipe.name}-sweep"


def load_search_space(
    recipe: Recipe, reporter: Reporter, *, allow_pickle: bool = False
) -> SearchSpace:
    """What a sweep of a recipe varies.

    Raises:
        KdError: Data or models are missing or unusable.
    """
    _refuse_black_box(recipe)
    given = validate_inputs(recipe, reporter, allow_pickle=allow_pickle, load_weights=False)
    return _validated_search_space(
        recipe.with_default_losses(given.dataset_splits.task), given, allow_pickle=allow_pickle
    )


def run_sweep(
    config: SweepConfig,
    reporter: Reporter,
    *,
    max_minutes: float | None = None,
    workers: int = 1,
    target: QualityGate | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Try many students of one teacher, and find those worth choosing from.

    What was done before in the same folder counts; other processes may be at the same sweep.

    Args:
        config: The recipe, its folder, how many trials.
        reporter: Told of each trial.
        max_minutes: When to begin no more trials. Left out: only their number ends it.
        workers: Processes that work side by side.
        target: The validation accuracy (of other tasks their headline) to hold with the smallest
            and fastest student.
        fresh: Delete what an earlier sweep left in the folder.

    Returns:
        What `sweep.json` in the folder holds, see docs/guides/sweep.md.

    Raises:
        KdError: With what to do about it; finished trials stay.
    """
    start = time.time()
    require_optuna()
    recipe, folder = config.recipe, config.folder
    _refuse_black_box(recipe)
    RunFolder.open(folder)
    given = validate_inputs(recipe, reporter, allow_pickle=config.allow_pickle, load_weights=False)
    task = given.dataset_splits.task
    if target is not None and target.metric != task.primary_metric:
        raise UsageError(f"{target}: the task is {task}, whose figure is {task.primary_metric}.")
    recipe = recipe.with_default_losses(task)
    space = _validated_search_space(recipe, given, allow_pickle=config.allow_pickle)
    config = replace(config, recipe=recipe, space=space)
    folder.mkdir(parents=True, exist_ok=True)
    with shared_work_lock(folder / ".shared", reporter):
        if fresh:
            delete_sweep_files(folder)
        study = SweepStudy(folder, config.space, recipe.seed)
        study.start_or_resume(
            _sweep_fingerprint(config), recipe_values_in_space(recipe, config.space)
        )
        # The trials take over the teacher and its outputs.
        run = run_pipeline(
            recipe,
            folder,
            reporter,
            "outputs",
            fresh=fresh,
            allow_pickle=config.allow_pickle,
            checkpoint_every=config.checkpoint_every,
        )
    config = replace(config, deadline=None if max_minutes is None else start + 60 * max_minutes)
    with _worker_processes(config, workers - 1):
        SweepWorker(config, reporter, given).run_trials(wait_for_others=True)
    with shared_work_lock(folder / ".shared", reporter):
        return _write_sweep_result(
            config, run, given, None if target is None else target.limit, reporter
        )


def _refuse_black_box(recipe: Recipe) -> None:
    if recipe.black_box_teacher is not None:
        raise RecipeError(
            "teacher: a sweep measures students beside their teacher, and a black box can't be.",
            "Distil with it: kd distill.",
        )


def _validated_search_space(
    recipe: Recipe, inputs: ValidatedInputs, *, allow_pickle: bool
) -> SearchSpace:
    """What is varied; each student that it names by itself is looked at."""
    assert inputs.teacher is not None, "a black box is refused before"
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


def _sweep_fingerprint(config: SweepConfig) -> dict[str, Any]:
    whole = config.recipe.model_dump(mode="json")
    parts = {part: whole[part] for part in ("data", "teacher", "student", "distill", "seed")}
    return parts | {
        "sweep": space_to_json(config.space),
        "sources": source_cache_keys(config.recipe),
    }


@contextmanager
def _worker_processes(config: SweepConfig, count: int) -> Iterator[None]:
    """Within the block other processes work at the sweep too; at its end they are through.

    Raises:
        KdError: That of the first helper that failed.
    """
    if count < 1:
        yield
        return
    import torch

    threads = max(1, torch.get_num_threads() // (count + 1))
    torch.set_num_threads(threads)
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    helpers = [
        context.Process(target=_worker_process_main, args=(config, threads, failures))
        for _ in range(count)
    ]
    for helper in helpers:
        helper.start()
    try:
        yield
        for helper in helpers:
            helper.join()
    finally:
        for helper in helpers:
            helper.terminate()
            helper.join()
    if not failures.empty():
        raise failures.get()
    if any(helper.exitcode for helper in helpers):
        raise ResourceError(
            "A worker of the sweep was ended from outside.",
            "Take fewer --workers where memory is short, and run the same command again.",
        )


def _worker_process_main(config: SweepConfig, threads: int, failures: Any) -> None:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    require_optuna()
    try:
        SweepWorker(config, SilentReporter()).run_trials(wait_for_others=False)
    except KdError as error:
        failures.put(error)
    except KeyboardInterrupt:
        return  # the sweep itself says so


def _write_sweep_result(
    config: SweepConfig,
    run: RunFolder,
    inputs: ValidatedInputs,
    target: float | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Time what is worth choosing from, choose, and write it down."""
    study = SweepStudy(config.folder, config.space, config.recipe.seed)
    kept, trials = study.delete_dominated_trials(), study.trials()
    if not kept:
        why = [trial.why for trial in trials if trial.why]
        raise UsageError(
            f"None of the {len(trials)} trials in {config.folder} came to an end"
            + (f"; {len(why)} failed, the last one thus: {why[-1]}" if why else "."),
            "Give it more --trials or --minutes, or another space (sweep: in the recipe).",
        )
    points = time_models(config.recipe, run, kept, inputs.dataset_splits, reporter)
    best = pareto_frontier(points)
    task = inputs.dataset_splits.task
    result = SweepResult(config, trials, points, best, choose_student(best, target), target, task)
    document = result.to_json()
    run.write_text(RESULT_FILE, json.dumps(document, indent=2) + "\n")
    run.write_text(PLOT_FILE, result.plot_svg())
    if result.chosen is None:
        (config.folder / BEST_RECIPE_FILE).unlink(missing_ok=True)
    else:
        settings = result.trial_of(result.chosen).settings
        run.write_text(BEST_RECIPE_FILE, dump_recipe(recipe_for_trial(config.recipe, settings)))
    return document
