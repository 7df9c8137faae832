"""Predict teacher logits; prepare finished and black-box teachers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli import distributed, resources
from kdcli.data.cross_validation import make_cross_validation_folds
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels.label_matching import (
    are_default_label_names,
    explain_label_match,
    match_labels,
)
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.evaluation.calibration.temperature import fit_temperature
from kdcli.models import model_io
from kdcli.models.logit_prediction import predict_logits_distributed
from kdcli.models.padding import create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.pipeline import run_datasets, stage_training
from kdcli.pipeline.stage import StageContext
from kdcli.progress import ProgressCounter
from kdcli.recipe.black_box_teachers import BlackBoxTeacher
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.safe_files import open_atomically
from kdcli.tasks import Task
from kdcli.teachers import registry
from kdcli.training import teacher_logits
from kdcli.training.teacher_logits import TEACHER_LOGITS
from kdcli.training.train import train_model

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_STUDENT_SPLITS = ("train", "validation", run_datasets.TRANSFER_SPLIT)
_TEST_SPLIT = "test"
_BATCH_SIZE = 64
ABOUT_FILE = "teacher.json"


def compute_teacher_logits(context: StageContext) -> dict[str, Any]:
    """Write the logits on train, validation and transfer set.

    Returns:
        `rows`, the number of texts; the task's primary metric of the logits on validation, if the
        data has labels.
    """
    spec = context.recipe.teacher
    corpus = run_datasets.with_transfer_set(
        run_datasets.load_recipe_dataset(context.recipe, context.reporter), context
    )
    if not isinstance(spec, ClassifierTeacherConfig):
        return _compute_black_box_logits(spec, corpus, context)
    model = model_io.load_classifier(context.artifacts["teacher"])
    tokenizer = model_io.load_tokenizer(context.artifacts["teacher"])
    names = model_io.get_label_names(model.config)
    splits = {split: corpus.splits[split] for split in _splits_to_predict(corpus)}
    _require_disk_for_logits(corpus, len(names), context)
    found = {} if spec.cross_fit_folds is None else {"train": _out_of_fold_logits(context, corpus)}
    asked = {name: split for name, split in splits.items() if name not in found}
    found |= _predict_logits(model, tokenizer, asked, context)
    task = corpus.task
    if spec.temperature_scaling:
        truth = _validation_labels(corpus, names)
        temperature = fit_temperature(found["validation"], truth, task)
        context.reporter.info(f"The teacher's logits are divided by {temperature:.2f}.")
        found = {split: logits / temperature for split, logits in found.items()}
    if context.required_runs:
        found = {
            split: _average_with_other_teachers(logits, split, names, task, context)
            for split, logits in found.items()
        }
    whose = (
        f"Together the {1 + len(context.required_runs)} teachers'" if context.required_runs else ""
    )
    headline = _validation_metric(corpus, names, found["validation"], whose, context)
    if distributed.is_main_process():
        teacher_logits.write_teacher_logits(found, context.output)
    return {"rows": sum(map(len, splits.values())), **headline}


def _compute_black_box_logits(
    black_box: BlackBoxTeacher, dataset_splits: DatasetSplits, context: StageContext
) -> dict[str, Any]:
    """Write the logits of a black box."""
    _require_disk_for_logits(dataset_splits, len(dataset_splits.label_names), context)

    def ask() -> dict[str, Any]:
        setting = run_datasets.black_box_context(
            context, dataset_splits, context.artifacts["teacher"]
        )
        found = registry.predict_teacher_logits(
            black_box, setting, _splits_to_predict(dataset_splits)
        )
        teacher_logits.write_teacher_logits(found, context.output)
        whose = f"The teacher ({black_box.title}):"
        headline = _validation_metric(
            dataset_splits, dataset_splits.label_names, found["validation"], whose, context
        )
        return {"rows": sum(map(len, found.values())), **headline}

    return distributed.broadcast_from_rank0(ask)


def _validation_metric(
    dataset_splits: DatasetSplits,
    label_names: Sequence[str],
    logits: np.ndarray,
    subject: str,
    context: StageContext,
) -> dict[str, float]:
    """Return and report the primary metric on validation; empty without labels."""
    task = dataset_splits.task
    if not dataset_splits.has_labels:
        return {}
    found = task.score(task.predict(logits), _validation_labels(dataset_splits, label_names))
    if subject:
        context.reporter.info(
            f"{subject} {task.primary_metric_title} on validation is {found:.4f}."
        )
    return {task.primary_metric: found}


def _validation_labels(dataset_splits: DatasetSplits, label_names: Sequence[str]) -> np.ndarray:
    places = dataset_splits.match_model_labels(
        label_names, dataset_splits.present_labels("validation")
    )
    return dataset_splits.ground_truth_labels(
        dataset_splits.splits["validation"], places, len(label_names)
    )


def _splits_to_predict(dataset_splits: DatasetSplits) -> list[str]:
    """Return the splits that the student trains on; without labels, the test split too."""
    parts = _STUDENT_SPLITS if dataset_splits.has_labels else (*_STUDENT_SPLITS, _TEST_SPLIT)
    return [split for split in parts if split in dataset_splits.splits]


def _require_disk_for_logits(
    dataset_splits: DatasetSplits, num_labels: int, context: StageContext
) -> None:
    needed = (
        4
        * num_labels
        * sum(len(dataset_splits.splits[split]) for split in _splits_to_predict(dataset_splits))
    )
    resources.require_disk(needed, context.output.parent, "what the teacher says of every text")


def _predict_logits(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    splits: dict[str, "Dataset"],
    context: StageContext,
) -> dict[str, np.ndarray]:
    """Return logits of each split, shape (rows, classes)."""
    limit = get_max_length(model, tokenizer, context.recipe.data.max_length)
    collate, keep = create_collator(model, tokenizer), context.recipe.data.truncation
    advance = ProgressCounter(context.reporter, sum(map(len, splits.values())))
    return {
        name: predict_logits_distributed(
            model, collate, tokenize_dataset(split, tokenizer, limit, keep), _BATCH_SIZE, advance
        )
        for name, split in splits.items()
    }


def _out_of_fold_logits(context: StageContext, dataset_splits: DatasetSplits) -> np.ndarray:
    """Predict each training text by a teacher that was fine-tuned on the other folds."""
    spec, train = context.recipe.white_box_teacher, dataset_splits.splits["train"]
    assert spec is not None and spec.cross_fit_folds is not None
    parts = make_cross_validation_folds(
        train, dataset_splits.task, spec.cross_fit_folds, context.recipe.seed
    )
    found = np.empty((len(train), len(dataset_splits.label_names)), dtype=np.float32)
    for number, (others, part) in enumerate(parts, 1):
        kept = context.scratch / f"fold-{number}.npy"
        if not kept.exists():
            context.reporter.info(
                f"Part {number} of {spec.cross_fit_folds} is left out of fine-tuning."
            )
            alone = replace(context, scratch=context.scratch / f"fold-{number}")
            # The fold is removed with all its windows and labels.
            rest = replace(
                dataset_splits, splits={**dataset_splits.splits, "train": train.select(others)}
            )
            model, tokenizer, arguments = stage_training.prepare_fine_tuning(
                alone, f"teacher-fold-{number}", rest
            )
            train_model(model, tokenizer, **arguments)
            logits = _predict_logits(model, tokenizer, {"part": train.select(part)}, context)[
                "part"
            ]
            if distributed.is_main_process():
                with open_atomically(kept) as file:
                    np.save(file, logits)
            distributed.barrier()
        found[part] = np.load(kept)
    return found


def _average_with_other_teachers(
    logits: np.ndarray, split: str, label_names: tuple[str, ...], task: Task, context: StageContext
) -> np.ndarray:
    """Average all teachers' predictions, as logits in this teacher's order of classes."""
    spec = context.recipe.white_box_teacher
    assert spec is not None
    every, weights = [logits], [spec.weight]
    for folder, other in zip(context.required_runs, spec.ensemble_with, strict=True):
        theirs = model_io.get_label_names(model_io.load_config(folder / "teacher"))
        told = np.asarray(
            teacher_logits.load_teacher_logits(folder / "teacher-outputs")[split][TEACHER_LOGITS]
        )
        every.append(told[:, match_labels(label_names, theirs)])
        weights.append(other.weight)
    return teacher_logits.average_teacher_logits(every, weights, task)


def prepare_black_box_teacher(
    black_box: BlackBoxTeacher, dataset_splits: DatasetSplits, context: StageContext
) -> dict[str, Any]:
    """Write the folder of a black-box teacher: its description, and what it fits on train."""
    about = {"teacher": black_box.title, "labels": dataset_splits.label_names}

    def fit() -> None:
        context.output.mkdir()
        black_box.fit(run_datasets.black_box_context(context, dataset_splits, context.output))
        text = json.dumps(about, indent=2, ensure_ascii=False)
        (context.output / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")

    distributed.broadcast_from_rank0(fit)
    return {"history": [], "task": dataset_splits.task.name}


def adopt_dataset_labels(
    model: "PreTrainedModel", dataset_splits: DatasetSplits, context: StageContext
) -> None:
    """Name a finished classifier's labels as the data does."""
    model_io.check_problem_type(model.config, dataset_splits.task, "The teacher")
    names = model_io.get_label_names(model.config)
    places = dataset_splits.match_model_labels(names, dataset_splits.present_labels("train"))
    if why := explain_label_match(dataset_splits.label_names, names):
        context.reporter.info(f"The teacher's {why}.")
    if are_default_label_names(names) and sorted(places) == [*range(len(names))]:
        names = tuple(
            dataset_splits.label_names[places.index(output)] for output in range(len(names))
        )
    model_io.set_label_names(model.config, names, dataset_splits.task.name)
