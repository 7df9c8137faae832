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

from kdcli.errors import KdError, MachineError, MendableError, RecipeError, UsageError
from kdcli.evaluation.gates import Gate
from kdcli.locks import only_one
from kdcli.models import layers
from kdcli.pipeline import execute
from kdcli.planning import identities_of
from kdcli.progress import Reporter, Silent
from kdcli.recipe.load import dump, varied
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep import Space, probes
from kdcli.run import RunFolder
from kdcli.stages.inputs import Inputs, look
from kdcli.sweep.frontier import chosen, frontier, timed
from kdcli.sweep.result import Result
from kdcli.sweep.space import described, own, space_of
from kdcli.sweep.study import (
    BEST,
    PICTURE,
    RESULT,
    Study,
    require_optuna,
    start_over,
)
from kdcli.sweep.work import Order, Worker


def folder_for(recipe: Recipe, output: Path | None = None) -> Path:
    """The sweep's folder: what the user named, or `runs/NAME-sweep`."""
    return output if output is not None else Path("runs") / f"{recipe.name}-sweep"


def space_for(recipe: Recipe, reporter: Reporter, *, allow_pickle: bool = False) -> Space:
    """What a sweep of a recipe varies.

    Raises:
        KdError: Data or models are missing or unusable.
    """
    _refuse_black_box(recipe)
    given = look(recipe, reporter, allow_pickle=allow_pickle, weights=False)
    return _space(recipe.spelt_out(given.corpus.task), given, allow_pickle=allow_pickle)


def search(
    order: Order,
    reporter: Reporter,
    *,
    minutes: float | None = None,
    workers: int = 1,
    target: Gate | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Try many students of one teacher, and find those worth choosing from.

    What was done before in the same folder counts; other processes may be at the same sweep.

    Args:
        order: The recipe, its folder, how many trials.
        reporter: Told of each trial.
        minutes: When to begin no more trials. Left out: only their number ends it.
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
    recipe, folder = order.recipe, order.folder
    _refuse_black_box(recipe)
    RunFolder.open(folder)
    given = look(recipe, reporter, allow_pickle=order.allow_pickle, weights=False)
    task = given.corpus.task
    if target is not None and target.figure != task.headline:
        raise UsageError(f"{target}: the task is {task}, whose figure is {task.headline}.")
    recipe = recipe.spelt_out(task)
    space = _space(recipe, given, allow_pickle=order.allow_pickle)
    order = replace(order, recipe=recipe, space=space)
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / ".shared", reporter):
        if fresh:
            start_over(folder)
        study = Study(folder, order.space, recipe.seed)
        study.begin(_made_for(order), own(recipe, order.space))
        # The trials take over the teacher and its outputs.
        run = execute(
            recipe,
            folder,
            reporter,
            "outputs",
            fresh=fresh,
            allow_pickle=order.allow_pickle,
            checkpoint_every=order.checkpoint_every,
        )
    order = replace(order, until=None if minutes is None else start + 60 * minutes)
    with _helpers(order, workers - 1):
        Worker(order, reporter, given).work(wait=True)
    with only_one(folder / ".shared", reporter):
        return _conclude(order, run, given, None if target is None else target.limit, reporter)


def _refuse_black_box(recipe: Recipe) -> None:
    if recipe.black_box is not None:
        raise RecipeError(
            "teacher: a sweep measures students beside their teacher, and a black box can't be.",
            "Distil with it: kd distill.",
        )


def _space(recipe: Recipe, given: Inputs, *, allow_pickle: bool) -> Space:
    """What is varied; each student that it names by itself is looked at."""
    assert given.teacher is not None, "a black box is refused before"
    space = space_of(recipe, layers.stacks(given.teacher)[0].depth)
    for key, values in space.items():
        for value in probes(values) if key.startswith("student") else ():
            try:
                given.student_by(varied(recipe, {key: value}), allow_pickle=allow_pickle)
            except MendableError as error:
                raise RecipeError(
                    f"sweep: {key}: {json.dumps(value)}: {error.message}", error.hint
                ) from error
    return space


def _made_for(order: Order) -> dict[str, Any]:
    whole = order.recipe.model_dump(mode="json")
    parts = {part: whole[part] for part in ("data", "teacher", "student", "distill", "seed")}
    return parts | {"sweep": described(order.space), "sources": identities_of(order.recipe)}


@contextmanager
def _helpers(order: Order, number: int) -> Iterator[None]:
    """Within the block other processes work at the sweep too; at its end they are through.

    Raises:
        KdError: That of the first helper that failed.
    """
    if number < 1:
        yield
        return
    import torch

    threads = max(1, torch.get_num_threads() // (number + 1))
    torch.set_num_threads(threads)
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    helpers = [
        context.Process(target=_help, args=(order, threads, failures)) for _ in range(number)
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
        raise MachineError(
            "A worker of the sweep was ended from outside.",
            "Take fewer --workers where memory is short, and run the same command again.",
        )


def _help(order: Order, threads: int, failures: Any) -> None:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    require_optuna()
    try:
        Worker(order, Silent()).work(wait=False)
    except KdError as error:
        failures.put(error)
    except KeyboardInterrupt:
        return  # the sweep itself says so


def _conclude(
    order: Order, run: RunFolder, given: Inputs, target: float | None, reporter: Reporter
) -> dict[str, Any]:
    """Time what is worth choosing from, choose, and write it down."""
    study = Study(order.folder, order.space, order.recipe.seed)
    kept, trials = study.tidy(), study.trials()
    if not kept:
        why = [trial.why for trial in trials if trial.why]
        raise UsageError(
            f"None of the {len(trials)} trials in {order.folder} came to an end"
            + (f"; {len(why)} failed, the last one thus: {why[-1]}" if why else "."),
            "Give it more --trials or --minutes, or another space (sweep: in the recipe).",
        )
    points = timed(order.recipe, run, kept, given.corpus, reporter)
    best = frontier(points)
    task = given.corpus.task
    result = Result(order, trials, points, best, chosen(best, target), target, task)
    document = result.document()
    run.write_text(RESULT, json.dumps(document, indent=2) + "\n")
    run.write_text(PICTURE, result.picture())
    if result.choice is None:
        (order.folder / BEST).unlink(missing_ok=True)
    else:
        settings = result.trial(result.choice).settings
        run.write_text(BEST, dump(varied(order.recipe, settings)))
    return document
