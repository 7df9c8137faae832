"""How a model is trained: the part `teacher.fine_tune`, and most of `distill`."""

from typing import Literal

from pydantic import Field, model_validator

from kdcli.recipe.base import FrozenConfig


class TrainingConfig(FrozenConfig):
    """How a model is trained: the names and defaults of `transformers.TrainingArguments`."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of Adam.")
    batch_size: int = Field(48, ge=1, description="Texts in a batch, over all processes.")
    epochs: int = Field(5, ge=1, description="Passes over the training data.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Batches to one optimiser step.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the learning rate falls."
    )
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="Share of the steps that the rate rises in."
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's two decay rates.")
    epsilon: float = Field(1e-8, gt=0, description="Adam's epsilon.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW).")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Longest gradient before it is clipped; 0 turns clipping off."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Rate of all dropout. Left out: the model's own."
    )
    freeze_layers: int | None = Field(
        None,
        ge=0,
        description="How many of the first layers to leave as they are, with the embeddings; 0 is "
        "the embeddings alone. Left out: all are trained.",
    )
    weight_averaging_ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="The share of the steps, up to the last one, whose weights are averaged for "
        "the outcome. Left out: the outcome is the last step's.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="How much of a label goes to all classes alike."
    )
    class_weights: Literal["equal", "balanced"] = Field(
        "equal", description="'balanced' has each class count alike, however few its texts are."
    )
    focal_gamma: float = Field(
        0.0,
        ge=0,
        description="Gamma of the focal loss: texts that are right already count less.",
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        "shuffled",
        description="'balanced' draws an epoch's texts with replacement, each class as often.",
    )
    keep_checkpoint: Literal["last", "best"] = Field(
        "last",
        description="The last weights, or the epoch's with the best validation accuracy; micro F1 "
        "where a text has several labels, Spearman's correlation of scores.",
    )

    @model_validator(mode="after")
    def _check_averaging_or_best_model(self) -> "TrainingConfig":
        if self.weight_averaging_ratio is not None and self.keep_checkpoint == "best":
            raise ValueError("takes weight_averaging_ratio or keep_checkpoint: best, not both")
        return self

    def count_optimizer_steps(self, num_examples: int) -> int:
        """How many optimiser steps it takes on so many texts."""
        batches = -(-num_examples // self.batch_size)
        return -(-batches // self.gradient_accumulation_steps) * self.epochs
