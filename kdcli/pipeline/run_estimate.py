"""Estimate the cost of a run before it starts, without loading weights."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdcli.data.tokenization.tokenize import token_lengths, tokenize_dataset
from kdcli.models.device import inference_device
from kdcli.models.model_complexity import ModelComplexity, count_parameters_and_flops
from kdcli.models.sequence_length import get_max_length
from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.pipeline.preflight import ValidatedInputs, validate_inputs
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.recipe.training import TrainingConfig
from kdcli.stages import enabled_stages

_SAMPLE = 512
# Share of a matrix product's speed that training reaches on a classifier's texts.
_PEAK_UTILIZATION = 0.5


@dataclass(frozen=True)
class EstimateInputs:
    """Inputs of the estimate: sizes and speeds that the stages compute their cost from.

    Attributes:
        recipe: The recipe.
        inputs: Texts, and models without weights.
        student: Size of the student.
        all_teachers: Sizes of the teachers, the main one first; empty for a black box.
        split_sizes: Number of texts, by split.
        tokens_per_text: Mean number of tokens; 0 where no model reads tokens.
        flops_per_second: Speed of this machine in training.
    """

    recipe: Recipe
    inputs: ValidatedInputs
    student: ModelComplexity
    all_teachers: tuple[ModelComplexity, ...]
    split_sizes: dict[str, int]
    tokens_per_text: float
    flops_per_second: float

    @property
    def teacher(self) -> ModelComplexity | None:
        """Size of the main teacher; None for a black box."""
        return self.all_teachers[0] if self.all_teachers else None

    @property
    def distillation_texts(self) -> int:
        """Number of texts that the student trains on."""
        return self.split_sizes["train"] + self.inputs.max_transfer_texts

    @property
    def texts_for_teacher(self) -> int:
        """Number of texts that the teacher predicts."""
        return self.distillation_texts + self.split_sizes["validation"]

    def forward_seconds(self, texts: float, flops_per_token: float) -> float:
        """Duration of a forward pass over so many texts."""
        return texts * self.tokens_per_text * flops_per_token / self.flops_per_second

    def training_cost(
        self, config: TrainingConfig, model: ModelComplexity, train_texts: int
    ) -> dict[str, Any]:
        """Return `parameters`, `steps` and `seconds` of a training with validation each epoch."""
        # A training step does three times the work of a forward pass.
        texts = config.epochs * (3 * train_texts + self.split_sizes["validation"])
        return {
            "parameters": model.parameters,
            "steps": config.count_optimizer_steps(train_texts),
            "seconds": self.forward_seconds(texts, model.flops_per_token),
        }


def estimate_run(
    recipe: Recipe, reporter: Reporter, options: RunOptions = DEFAULT_OPTIONS
) -> dict[str, dict[str, Any]]:
    """Estimate each stage's `parameters`, `steps` and `seconds`, as far as they apply.

    The time counts the operations of matrix products (6 per parameter and token in training, 2 in
    a forward pass), at a share of the speed that this machine reaches on one product now.

    Raises:
        KdError: The data or a model's configuration is missing or unusable.
    """
    return estimate_stages(recipe, validate_inputs(recipe, reporter, options, load_weights=False))


def estimate_stages(recipe: Recipe, inputs: ValidatedInputs) -> dict[str, dict[str, Any]]:
    """Estimate each stage as `estimate_run` does, from inputs that are validated."""
    model = inputs.teacher or inputs.student
    split_sizes = {name: len(split) for name, split in inputs.dataset_splits.splits.items()}
    train = inputs.dataset_splits.splits["train"]
    sample = train.select(range(min(_SAMPLE, len(train))))
    tokens = 0.0
    if inputs.tokenizer is not None:
        limit = get_max_length(model, inputs.tokenizer, recipe.data.max_length)
        tokens = float(np.mean(token_lengths(tokenize_dataset(sample, inputs.tokenizer, limit))))
    teachers = () if inputs.teacher is None else (inputs.teacher, *inputs.other_teachers)
    workload = EstimateInputs(
        recipe,
        inputs,
        count_parameters_and_flops(inputs.student),
        tuple(map(count_parameters_and_flops, teachers)),
        split_sizes,
        tokens,
        _measure_flops_per_second() * _PEAK_UTILIZATION,
    )
    return {stage.name: stage.estimate(workload) for stage in enabled_stages(recipe)}


def _measure_flops_per_second() -> float:
    size = 768
    device = inference_device()
    # Nothing random, which would change the numbers that a run draws afterwards.
    left, right = (torch.full((size, size), 0.5, device=device) for _ in range(2))
    best = 0.0
    for _ in range(20):
        start = time.perf_counter()
        (left @ right).sum().item()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
