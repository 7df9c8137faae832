"""What a run will cost, before it starts: sizes, steps and a rough time; no weights are loaded."""

import time
from typing import Any

import numpy as np
import torch

from kdcli.data.encode import encode, length_limit, lengths
from kdcli.models import distilbert, layers, source, surgery
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.stages import texts
from kdcli.training import trainer

_SAMPLE = 512
# Of the matrix product's speed, what training reaches on the texts of a classifier.
_SHARE_OF_PEAK = 0.35


def forecast(recipe: Recipe, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """By stage: `parameters`, `steps` and expected `seconds`, as far as they apply.

    The time counts the matrix products' operations (6 a parameter and token in training, 2 in a
    forward pass) at a share of the speed that this machine shows on one product now.

    Raises:
        KdError: The data or a model's configuration is missing or unusable.
    """
    corpus = texts.load(recipe, reporter)
    folder = source.locate(recipe.teacher.model, recipe.teacher.revision)
    config = source.load_config(folder)
    config.num_labels = len(corpus.labels)
    student = _student_config(recipe, config)
    rows = {part: len(split) for part, split in corpus.splits.items()}
    tokenizer = source.load_tokenizer(folder)
    limit = length_limit(config, tokenizer, recipe.data.max_length)
    sample = corpus.splits["train"].select(range(min(_SAMPLE, rows["train"])))
    tokens = float(np.mean(lengths(encode(sample, tokenizer, limit))))
    speed = _operations_a_second() * _SHARE_OF_PEAK
    teacher_size, teacher_work = _size(config)
    student_size, student_work = _size(student)

    def seconds(count: float, operations: float) -> float:
        return count * tokens * operations / speed

    found: dict[str, dict[str, Any]] = {
        "teacher": {"parameters": teacher_size},
        "student": {"parameters": student_size},
        "outputs": {"seconds": seconds(rows["train"] + rows["validation"], 2 * teacher_work)},
        "distill": {"parameters": student_size},
    }
    fits = {
        "teacher": (recipe.teacher.fine_tune, teacher_work),
        "distill": (recipe.distill, student_work),
    }
    for stage, (spec, work) in fits.items():
        if spec is not None:
            passes = rows["train"] * 6 * work + rows["validation"] * 2 * work
            found[stage]["steps"] = trainer.steps(rows["train"], spec)
            found[stage]["seconds"] = seconds(spec.epochs * passes, 1)
    measured = sum(rows.get(part, 0) for part in recipe.evaluate.splits)
    found["evaluate"] = {"seconds": seconds(measured, 2 * (teacher_work + student_work))}
    return found


def _student_config(recipe: Recipe, teacher: Any) -> Any:
    spec = recipe.student
    if spec.model is not None:
        config = source.load_config(source.locate(spec.model, spec.revision))
        config.num_labels = teacher.num_labels
        return config
    kept = layers.choose(spec, surgery.depth(teacher))
    form = surgery.form(teacher, spec.architecture)
    if form == "distilbert":
        return distilbert.config_from(teacher, len(kept))
    return surgery.shallower(teacher, kept)


def _size(config: Any) -> tuple[int, int]:
    """All parameters, and those that multiply every token (the embeddings are looked up)."""
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    looked_up = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
    )
    total = source.count_parameters(model)
    return total, total - looked_up


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
