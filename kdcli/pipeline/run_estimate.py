"""What a run will cost, before it starts: sizes, steps and a rough time; no weights are loaded."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdcli.data.tokenization.tokenize import token_lengths, tokenize_dataset
from kdcli.losses.base import INTERNAL_OUTPUTS, required_teacher_outputs
from kdcli.models.model_complexity import ModelComplexity, count_parameters_and_flops
from kdcli.models.sequence_length import get_max_length
from kdcli.pipeline.preflight import validate_inputs
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.recipe.training import TrainingConfig

_SAMPLE = 512
# Of the matrix product's speed, what training reaches on the texts of a classifier.
_PEAK_UTILIZATION = 0.5


def estimate_run(
    recipe: Recipe,
    reporter: Reporter,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """By stage: `parameters`, `steps` and expected `seconds`, as far as they apply.

    The time counts the matrix products' operations (6 a parameter and token in training, 2 in a
    forward pass) at a share of the speed that this machine shows on one product now.

    Raises:
        KdError: The data or a model's configuration is missing or unusable.
    """
    given = validate_inputs(
        recipe,
        reporter,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=allow_endpoints,
        load_weights=False,
    )
    large = None if given.teacher is None else count_parameters_and_flops(given.teacher)
    small, model = count_parameters_and_flops(given.student), given.teacher or given.student
    rows = {part: len(split) for part, split in given.dataset_splits.splits.items()}
    limit = get_max_length(model, given.tokenizer, recipe.data.max_length)
    sample = given.dataset_splits.splits["train"].select(range(min(_SAMPLE, rows["train"])))
    tokens = float(np.mean(token_lengths(tokenize_dataset(sample, given.tokenizer, limit))))
    speed = _measure_flops_per_second() * _PEAK_UTILIZATION

    def seconds(texts: float, flops_per_token: float) -> float:
        return texts * tokens * flops_per_token / speed

    found: dict[str, dict[str, Any]] = {
        "teacher": {},
        "student": {"parameters": small.parameters},
        "outputs": {},
        "distill": {"parameters": small.parameters},
    }
    fits: dict[str, tuple[TrainingConfig, ModelComplexity]] = {"distill": (recipe.distill, small)}
    told = rows["train"] + rows["validation"] + given.max_transfer_texts

    def fitting(spec: TrainingConfig, train: int, one: ModelComplexity) -> float:
        # A training step does three times the work of a forward pass.
        return seconds(spec.epochs * (3 * train + rows["validation"]), one.flops_per_token)

    # How long a black box takes to answer, nobody knows.
    if large is not None and recipe.white_box_teacher is not None:
        found["teacher"] = {"parameters": large.parameters}
        found["outputs"] = {"seconds": 0.0}
        teachers = (recipe.white_box_teacher, *recipe.white_box_teacher.ensemble_with)
        for teacher, one in zip(
            teachers, [large, *map(count_parameters_and_flops, given.other_teachers)], strict=True
        ):
            found["outputs"]["seconds"] += seconds(told, one.flops_per_token)
            if teacher.fine_tune is not None:
                # The first is ready by then; of folds each is left out once.
                more = (
                    (teacher is not recipe.white_box_teacher) + (teacher.cross_fit_folds or 1) - 1
                )
                found["outputs"]["seconds"] += more * fitting(teacher.fine_tune, rows["train"], one)
        if recipe.white_box_teacher.fine_tune is not None:
            fits["teacher"] = (recipe.white_box_teacher.fine_tune, large)
    for stage, (spec, one) in fits.items():
        train = rows["train"] + (given.max_transfer_texts if stage == "distill" else 0)
        found[stage]["steps"] = spec.count_optimizer_steps(train)
        found[stage]["seconds"] = fitting(spec, train, one)
    if recipe.baseline:
        found["baseline"] = dict(found["distill"])
    asked = (
        required_teacher_outputs(recipe.distill.losses_for_task(given.dataset_splits.task))
        & INTERNAL_OUTPUTS
    )
    if large is not None and asked:
        # Hidden states are noted once where there is room; others are asked for in every epoch.
        times = 1 if asked == {"hidden_states"} else recipe.distill.epochs
        found["distill"]["seconds"] += seconds(times * told, large.flops_per_token)
    if recipe.has_control_student:
        found["control"] = found["distill"]
    measured = sum(rows.get(part, 0) for part in recipe.evaluate.splits)
    work = (1 + recipe.baseline + recipe.has_control_student) * small.flops_per_token
    work += 0 if large is None else large.flops_per_token
    found["evaluate"] = {"seconds": seconds(measured, work)}
    return found


def _measure_flops_per_second() -> float:
    size = 768
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.rand(size, size, device=device) for _ in range(2))
    best = 0.0
    for _ in range(20):
        start = time.perf_counter()
        (left @ right).sum().item()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
