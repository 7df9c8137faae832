"""What a run will cost, before it starts: sizes, steps and a rough time; no weights are loaded."""

import time
from typing import Any

import numpy as np
import torch

from kdcli.data.encode import encode, length_limit, lengths
from kdcli.models.size import size
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.stages.inputs import look
from kdcli.training.fit import steps

_SAMPLE = 512
# Of the matrix product's speed, what training reaches on the texts of a classifier.
_SHARE_OF_PEAK = 0.35


def forecast(
    recipe: Recipe, reporter: Reporter, *, allow_pickle: bool = False
) -> dict[str, dict[str, Any]]:
    """By stage: `parameters`, `steps` and expected `seconds`, as far as they apply.

    The time counts the matrix products' operations (6 a parameter and token in training, 2 in a
    forward pass) at a share of the speed that this machine shows on one product now.

    Raises:
        KdError: The data or a model's configuration is missing or unusable.
    """
    given = look(recipe, reporter, allow_pickle=allow_pickle, weights=False)
    large, small = size(given.teacher), size(given.student)
    rows = {part: len(split) for part, split in given.corpus.splits.items()}
    limit = length_limit(given.teacher.config, given.tokenizer, recipe.data.max_length)
    sample = given.corpus.splits["train"].select(range(min(_SAMPLE, rows["train"])))
    tokens = float(np.mean(lengths(encode(sample, given.tokenizer, limit))))
    speed = _operations_a_second() * _SHARE_OF_PEAK

    def seconds(texts: float, flops_per_token: float) -> float:
        return texts * tokens * flops_per_token / speed

    found: dict[str, dict[str, Any]] = {
        "teacher": {"parameters": large.parameters},
        "student": {"parameters": small.parameters},
        "outputs": {"seconds": seconds(rows["train"] + rows["validation"], large.flops_per_token)},
        "distill": {"parameters": small.parameters},
    }
    fits = {
        "teacher": (recipe.teacher.fine_tune, large),
        "distill": (recipe.distill, small),
    }
    for stage, (spec, model) in fits.items():
        if spec is not None:
            # A training step does three times the work of a forward pass.
            passes = spec.epochs * (3 * rows["train"] + rows["validation"])
            found[stage]["steps"] = steps(rows["train"], spec)
            found[stage]["seconds"] = seconds(passes, model.flops_per_token)
    measured = sum(rows.get(part, 0) for part in recipe.evaluate.splits)
    found["evaluate"] = {
        "seconds": seconds(measured, large.flops_per_token + small.flops_per_token)
    }
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
