"""What the stages that train have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdcli.recipe.schema import FitSpec, LossSpec
from kdcli.run import Job
from kdcli.training import losses, trainer

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
    terms: Sequence[LossSpec],
) -> list[dict[str, Any]]:
    """Train a stage's model in place; see `kdcli.training.trainer.fit`.

    Returns:
        The training's table, a row for each epoch.
    """
    history = trainer.fit(
        model,
        tokenizer,
        rows["train"],
        rows["validation"],
        spec=spec,
        objective=losses.objective(terms),
        seed=job.recipe.seed,
        scratch=job.scratch,
        log=job.logs / f"{stage}.jsonl",
        reporter=job.reporter,
        checkpoint_every=job.checkpoint_every,
    )
    return [asdict(epoch) for epoch in history]
