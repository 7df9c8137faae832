"""Training hyperparameters: the part `teacher.fine_tune`, and most of `distill`."""

from typing import Literal

from pydantic import Field, model_validator

from kdcli.recipe.base import FrozenConfig


class TrainingConfig(FrozenConfig):
    """Training hyperparameters.

    Keys follow `transformers.TrainingArguments`, except `batch_size` (over all processes),
    `epochs`, `schedule`, `betas`, `epsilon`, `label_smoothing` and `keep_checkpoint`. Defaults are
    those of the CLINC150 run.
    """

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of Adam.")
    batch_size: int = Field(48, ge=1, description="Texts in a batch, over all processes.")
    epochs: int = Field(5, ge=1, description="Passes over the training data.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Batches per optimizer step.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Decay of the learning rate."
    )
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="Share of the steps in which the rate rises."
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's two decay rates.")
    epsilon: float = Field(1e-8, gt=0, description="Adam's epsilon.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW).")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradient norm to clip at; 0 turns clipping off."
    )
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32",
        description="Number format of the forward pass in training (mixed precision); weights and "
        "losses stay float32. 'auto': bfloat16 on an accelerator that computes it, else float32.",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Rate of all dropout. Default: the model's own."
    )
    freeze_layers: int | None = Field(
        None,
        ge=0,
        description="Number of first layers to freeze, together with the embeddings; 0 freezes the "
        "embeddings alone. Default: all are trained.",
    )
    weight_averaging_ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the steps, up to the last, whose weights are averaged. Default: no "
        "averaging.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of a label that is spread over all classes."
    )
    class_weights: Literal["equal", "balanced"] = Field(
        "equal", description="'balanced' weights classes equally, however few texts they have."
    )
    focal_gamma: float = Field(
        0.0,
        ge=0,
        description="Gamma of the focal loss: texts already classified right count less.",
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        "shuffled",
        description="'balanced' draws with replacement, each class equally often.",
    )
    keep_checkpoint: Literal["last", "best"] = Field(
        "last",
        description="Keep the last weights, or those of the best epoch on validation by accuracy; "
        "by micro F1 for several labels per text, by Spearman's correlation for scores.",
    )

    @model_validator(mode="after")
    def _check_averaging_or_best_model(self) -> "TrainingConfig":
        if self.weight_averaging_ratio is not None and self.keep_checkpoint == "best":
            raise ValueError("has both weight_averaging_ratio and keep_checkpoint: best")
        return self

    def count_optimizer_steps(self, num_examples: int) -> int:
        """Return the number of optimizer steps for a number of training examples."""
        batches = -(-num_examples // self.batch_size)
        return -(-batches // self.gradient_accumulation_steps) * self.epochs
