"""What the stages that train have in common."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdcli.losses.combined import CombinedLoss
from kdcli.pipeline.run_folder import StageContext
from kdcli.recipe.training import TrainingConfig
from kdcli.training.hidden_state_cache import HiddenStateCache
from kdcli.training.train import train_model as fit_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train_stage_model(
    context: StageContext,
    stage: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    tokenized: Mapping[str, "Dataset"],
    config: TrainingConfig,
    loss_fn: CombinedLoss,
    teacher: "PreTrainedModel | None" = None,
    hidden_state_cache: HiddenStateCache | None = None,
    seed: int,
) -> list[dict[str, Any]]:
    """Train a stage's model in place; see `kdcli.training.fit.fit`.

    Returns:
        The training's table, a row for each epoch; the figures stand in it by their names.
    """
    history = fit_model(
        model,
        tokenizer,
        tokenized["train"],
        tokenized["validation"],
        config=config,
        loss_fn=loss_fn,
        teacher=teacher,
        hidden_state_cache=hidden_state_cache,
        seed=seed,
        checkpoints_folder=context.scratch,
        log_file=context.logs / f"{stage}.jsonl",
        reporter=context.reporter,
        checkpoint_interval=context.checkpoint_every,
        report_to=context.recipe.report_to,
        run_name=f"{context.recipe.name}-{stage}",
    )
    epochs = map(asdict, history)
    return [epoch | epoch.pop("validation_metrics") for epoch in epochs]
