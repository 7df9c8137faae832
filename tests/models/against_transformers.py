"""What kd makes of a classifier, beside what plain transformers makes of each text alone."""

import copy
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_from_disk
from models.architectures import LABELS, Architecture, save, some_texts
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import kdcli
from kdcli.api.evaluation import evaluate_models
from kdcli.errors import KdError
from kdcli.pipeline import runner
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe
from kdcli.runtime import Classifier

EQUAL = "equal"
TOLERANCE = 1e-4
_SPLITS = {"train": 8, "validation": 6, "test": 12}
# A batch of each of these has texts of several lengths.
_BATCH = 5


class Wrong(AssertionError):
    """A figure of kd's is another than transformers'."""


def reference(folder: Path, texts: Sequence[str], it: Architecture) -> np.ndarray:
    """The logits of plain transformers in float32, a text at a time: (texts, labels)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    most = min(tokenizer.model_max_length, it.limit if it.positions else 10**9)
    logits = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
        with torch.no_grad():
            reader = copy.deepcopy(model) if it.remembers else model
            logits.append(reader(**inputs).logits[0].numpy())
    return np.stack(logits)


def evaluated(folder: Path, it: Architecture) -> str:
    """Measure the classifier in `folder` with kd, in padded batches.

    Returns:
        `EQUAL`, or why kd refuses it.

    Raises:
        Wrong: Its logits or its accuracy aren't transformers'.
    """
    texts = some_texts(10, seed=2, longest=it.limit, shortest=it.shortest)
    expected = reference(folder, texts, it)
    truth = _almost(expected)
    data = folder.with_name(f"{folder.name}-data")
    _write(data, {"train": texts}, {"train": truth})
    flags = [(f"{key}={value}", key) for key, value in {
        "data.dataset": json.dumps(str(data / "train.csv")), "evaluate.batch_size": _BATCH,
        "evaluate.latency_texts": 1, "evaluate.baselines": []}.items()]  # fmt: skip
    try:
        comparison = evaluate_models([str(folder)], flags, SilentReporter())
    except KdError as error:
        return str(error)
    order = [comparison.labels.index(label) for label in LABELS]
    found = comparison.predictions["test"][folder.name].logits[:, order]
    _compare(found, expected, texts, "logits")
    accuracy = comparison.evaluation["models"][0]["splits"]["test"]["accuracy"]
    _same(accuracy, np.mean(expected.argmax(-1) == truth), "accuracy")
    return EQUAL


def distilled(folder: Path, it: Architecture, **parts: Any) -> str:
    """Distil the classifier in `folder`, as a finished teacher, into one with half its layers.

    Args:
        folder: The teacher.
        it: What it is.
        parts: Of the recipe, instead of the usual ones.

    Returns:
        `EQUAL`, or why kd refuses it, with nothing written.

    Raises:
        Wrong: The teacher's outputs on disk, or an accuracy, aren't transformers'; or kd refuses
            it when something is written already.
    """
    texts = {split: some_texts(n, seed=place + 3, longest=it.limit, shortest=it.shortest)
             for place, (split, n) in enumerate(_SPLITS.items())}  # fmt: skip
    expected = {split: reference(folder, rows, it) for split, rows in texts.items()}
    truth = {split: _almost(logits) for split, logits in expected.items()}
    data = folder.with_name(f"{folder.name}-data")
    _write(data, texts, truth)
    recipe = {
        "name": "tiny", "seed": 1,
        "data": {"dataset": str(data)},
        "teacher": {"model": str(folder)},
        "student": {"drop_every": 2},
        "distill": {"epochs": 1, "batch_size": _BATCH, "learning_rate": 1e-3},
        "evaluate": {"latency_texts": 1, "baselines": [], "batch_size": _BATCH},
        **parts,
    }  # fmt: skip
    run = folder.with_name(f"{folder.name}-run")
    try:
        runner.run_pipeline(Recipe.model_validate(recipe), run, SilentReporter(), "evaluate")
    except KdError as error:
        if run.exists():
            left = sorted(path.name for path in run.iterdir())
            raise Wrong(f"refused after {left}: {error}") from error
        return str(error)
    outputs = load_from_disk(str(run / "teacher-outputs"))
    for split in ("train", "validation"):
        found = np.asarray(outputs[split]["teacher_logits"])
        _compare(found, expected[split], texts[split], f"teacher-outputs, {split}")
    measured = json.loads((run / "evaluation.json").read_text())["models"]
    for model in measured:
        logits = reference(run / model["name"], texts["test"], it)
        accuracy = model["splits"]["test"]["accuracy"]
        right = np.mean(logits.argmax(-1) == truth["test"])
        _same(accuracy, right, f"accuracy of the {model['name']}")
    return EQUAL


def exported(folder: Path, it: Architecture) -> str:
    """Export the classifier in `folder` to ONNX, and run it without PyTorch in padded batches.

    Returns:
        `EQUAL`, or why kd refuses it, with nothing written.

    Raises:
        Wrong: Its logits aren't transformers', or kd refuses it when something is written already.
    """
    texts = some_texts(10, seed=2, longest=it.limit, shortest=it.shortest)
    expected = reference(folder, texts, it)
    output = folder.with_name(f"{folder.name}-onnx")
    try:
        kdcli.export(folder, output)
    except KdError as error:
        if left := sorted(path.name for path in folder.parent.glob("*-onnx*")):
            raise Wrong(f"refused after {left}: {error}") from error
        return str(error)
    # Sums of T5's unscaled attention grow large.
    scale = max(1, np.abs(expected).max() * 10 * ("t5" in it.tokenizer))
    _compare(Classifier(output).predict_logits(texts) / scale, expected / scale, texts, "ONNX")
    return EQUAL


def _almost(logits: np.ndarray) -> np.ndarray:
    """Labels of which a classifier gets three of four right."""
    labels = logits.argmax(-1)
    labels[::4] = (labels[::4] + 1) % len(LABELS)
    return labels


def _write(folder: Path, texts: dict[str, Sequence[str]], labels: dict[str, np.ndarray]) -> None:
    folder.mkdir()
    for split, rows in texts.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((text, LABELS[i]) for text, i in zip(rows, labels[split], strict=True))


def _compare(found: np.ndarray, expected: np.ndarray, texts: Sequence[str], what: str) -> None:
    off = np.abs(found - expected).max(-1)
    if not (off < TOLERANCE).all():
        lengths = [len(text.split()) for text, d in zip(texts, off, strict=True) if d >= TOLERANCE]
        raise Wrong(f"{what}: off by {off.max():.2g}, in texts of {lengths} words")


def _same(found: float, expected: float, what: str) -> None:
    if abs(found - expected) > 1e-9:
        raise Wrong(f"{what}: {found:.4f} instead of {expected:.4f}")


def outcome(step: Callable[..., str], kind: str, folder: Path, **changes: Any) -> str:
    """What becomes of an architecture in a step: `EQUAL`, or why kd refuses it."""
    return step(folder / kind, save(kind, folder / kind, **changes))
