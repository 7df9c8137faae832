"""What the stages that train have in common."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdcli.recipe.fit import FitSpec
from kdcli.run import Job
from kdcli.training.fit import fit as fit_model
from kdcli.training.objective import Objective
from kdcli.training.remembered import Remembered

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fit(
    job: Job,
    stage: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    rows: Mapping[str, "Dataset"],
    spec: FitSpec,
    objective: Objective,
    teacher: "PreTrainedModel | None" = None,
    remembered: Remembered | None = None,
    seed: int,
) -> list[dict[str, Any]]:
    """Train a stage's model in place; see `kdcli.training.fit.fit`.

    Returns:
        The training's table, a row for each epoch; the figures stand in it by their names.
    """
    history = fit_model(
        model,
        tokenizer,
        rows["train"],
        rows["validation"],
        spec=spec,
        objective=objective,
        teacher=teacher,
        remembered=remembered,
        seed=seed,
        scratch=job.scratch,
        log=job.logs / f"{stage}.jsonl",
        reporter=job.reporter,
        checkpoint_every=job.checkpoint_every,
        report_to=job.recipe.report_to,
        name=f"{job.recipe.name}-{stage}",
    )
    epochs = map(asdict, history)
    return [epoch | epoch.pop("figures") for epoch in epochs]
