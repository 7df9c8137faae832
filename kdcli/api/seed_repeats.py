"""Repeat a finished run with other seeds, to measure how much of its metrics is chance."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli import distributed
from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.pipeline.run_folder import SEEDS_FILE, RunFolder
from kdcli.pipeline.runner import run_pipeline
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe


def repeat_with_seeds(
    recipe: Recipe,
    folder: Path,
    reporter: Reporter,
    seeds: int,
    options: RunOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Train a finished run's student again with other seeds, each in a run folder next to it.

    The teacher stays the same. Each seed also draws the student's random initial weights anew.

    Args:
        recipe: The run's recipe.
        folder: The run's folder; the others have its name with the seed appended.
        reporter: Receives every stage and step.
        seeds: Number of seeds, including the run's own.
        options: How to run the stages.

    Returns:
        The content of `seeds.json`; see `kdcli.evaluation.uncertainty.seed_variance`.
    """
    from kdcli.evaluation.uncertainty.seed_variance import aggregate_seeds

    first = recipe.student_seed
    run = RunFolder.open(folder)
    evaluations = {first: run.records["evaluate"].result}
    # --fresh holds for the run itself: a repetition goes on where it was stopped.
    options = replace(options, fresh=False)
    for seed in range(first + 1, first + seeds):
        reporter.info(f"Seed {seed}: the student is trained again.")
        distill = recipe.distill.model_copy(update={"seed": seed})
        repetition = run_pipeline(
            recipe.model_copy(update={"distill": distill}),
            folder.with_name(f"{folder.name}-seed{seed}"),
            reporter,
            "evaluate",
            options,
        )
        evaluations[seed] = repetition.records["evaluate"].result
    variance = aggregate_seeds(evaluations)
    if distributed.is_main_process():
        run.write_text(SEEDS_FILE, json.dumps(variance, indent=2) + "\n")
    return variance
