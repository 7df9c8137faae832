"""What a run will cost, before it starts: sizes, steps and a rough time; no weights are loaded."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdcli.data.encode import encode, lengths
from kdcli.models.positions import length_limit
from kdcli.models.size import Size, size
from kdcli.progress import Reporter
from kdcli.recipe.fit import FitSpec
from kdcli.recipe.schema import Recipe
from kdcli.stages.inputs import look
from kdcli.training.objective import LIVE, needs

_SAMPLE = 512
# Of the matrix product's speed, what training reaches on the texts of a classifier.
_SHARE_OF_PEAK = 0.5


def forecast(
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
    given = look(
        recipe,
        reporter,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
        allow_endpoints=allow_endpoints,
        weights=False,
    )
    large = None if given.teacher is None else size(given.teacher)
    small, model = size(given.student), given.teacher or given.student
    rows = {part: len(split) for part, split in given.corpus.splits.items()}
    limit = length_limit(model, given.tokenizer, recipe.data.max_length)
    sample = given.corpus.splits["train"].select(range(min(_SAMPLE, rows["train"])))
    tokens = float(np.mean(lengths(encode(sample, given.tokenizer, limit))))
    speed = _operations_a_second() * _SHARE_OF_PEAK

    def seconds(texts: float, flops_per_token: float) -> float:
        return texts * tokens * flops_per_token / speed

    found: dict[str, dict[str, Any]] = {
        "teacher": {},
        "student": {"parameters": small.parameters},
        "outputs": {},
        "distill": {"parameters": small.parameters},
    }
    fits: dict[str, tuple[FitSpec, Size]] = {"distill": (recipe.distill, small)}
    told = rows["train"] + rows["validation"] + given.transfer

    def fitting(spec: FitSpec, train: int, one: Size) -> float:
        # A training step does three times the work of a forward pass.
        return seconds(spec.epochs * (3 * train + rows["validation"]), one.flops_per_token)

    # How long a black box takes to answer, nobody knows.
    if large is not None and recipe.white_box is not None:
        found["teacher"] = {"parameters": large.parameters}
        found["outputs"] = {"seconds": 0.0}
        teachers = (recipe.white_box, *recipe.white_box.also)
        for teacher, one in zip(teachers, [large, *map(size, given.others)], strict=True):
            found["outputs"]["seconds"] += seconds(told, one.flops_per_token)
            if teacher.fine_tune is not None:
                # The first is ready by then; of folds each is left out once.
                more = (teacher is not recipe.white_box) + (teacher.folds or 1) - 1
                found["outputs"]["seconds"] += more * fitting(teacher.fine_tune, rows["train"], one)
        if recipe.white_box.fine_tune is not None:
            fits["teacher"] = (recipe.white_box.fine_tune, large)
    for stage, (spec, one) in fits.items():
        train = rows["train"] + (given.transfer if stage == "distill" else 0)
        found[stage]["steps"] = spec.steps(train)
        found[stage]["seconds"] = fitting(spec, train, one)
    if recipe.baseline:
        found["baseline"] = dict(found["distill"])
    asked = needs(recipe.distill.terms(given.corpus.task)) & LIVE
    if large is not None and asked:
        # Hidden states are noted once where there is room; others are asked for in every epoch.
        times = 1 if asked == {"hidden"} else recipe.distill.epochs
        found["distill"]["seconds"] += seconds(times * told, large.flops_per_token)
    if recipe.control:
        found["control"] = found["distill"]
    measured = sum(rows.get(part, 0) for part in recipe.evaluate.splits)
    work = (1 + recipe.baseline + recipe.control) * small.flops_per_token
    work += 0 if large is None else large.flops_per_token
    found["evaluate"] = {"seconds": seconds(measured, work)}
    return found


def _operations_a_second() -> float:
    size = 768
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.rand(size, size, device=device) for _ in range(2))
    best = 0.0
    for _ in range(20):
        start = time.perf_counter()
        (left @ right).sum().item()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
