"""Prepare teachers, finished and black-box ones, and compute their logits."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli import distributed, resources
from kdcli.data.cross_fitting import make_cross_validation_folds
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
from kdcli.models.padding_invariance import create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.pipeline import run_datasets, stage_training
from kdcli.pipeline.stage import StageContext
from kdcli.progress import StageProgress
from kdcli.recipe.black_box_teachers import BlackBoxTeacher
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.safe_files import open_atomically
from kdcli.tasks import Task
from kdcli.teachers import black_box_queries
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
    teacher_config = context.recipe.teacher
    dataset_splits = run_datasets.with_transfer_set(
        run_datasets.load_recipe_dataset(context.recipe, context.reporter), context
    )
    if not isinstance(teacher_config, ClassifierTeacherConfig):
        return _compute_black_box_logits(teacher_config, dataset_splits, context)
    model = model_io.load_classifier(context.artifacts["teacher"])
    tokenizer = model_io.load_tokenizer(context.artifacts["teacher"])
    names = model_io.get_label_names(model.config)
    splits = {split: dataset_splits.splits[split] for split in _splits_to_predict(dataset_splits)}
    _require_disk_for_logits(dataset_splits, len(names), context)
    logits_by_split = (
        {}
        if teacher_config.cross_fit_folds is None
        else {"train": _out_of_fold_logits(context, dataset_splits)}
    )
    remaining = {name: split for name, split in splits.items() if name not in logits_by_split}
    logits_by_split |= _predict_logits(model, tokenizer, remaining, context)
    task = dataset_splits.task
    if teacher_config.temperature_scaling:
        labels = _validation_labels(dataset_splits, names)
        temperature = fit_temperature(logits_by_split["validation"], labels, task)
        context.reporter.info(f"The teacher's logits are divided by {temperature:.2f}.")
        logits_by_split = {
            split: split_logits / temperature for split, split_logits in logits_by_split.items()
        }
    if context.required_runs:
        logits_by_split = {
            split: _average_with_other_teachers(split_logits, split, names, task, context)
            for split, split_logits in logits_by_split.items()
        }
    subject = (
        f"Together the {1 + len(context.required_runs)} teachers'" if context.required_runs else ""
    )
    metric = _validation_metric(
        dataset_splits, names, logits_by_split["validation"], subject, context
    )
    if distributed.is_main_process():
        teacher_logits.write_teacher_logits(logits_by_split, context.output)
    return {"rows": sum(map(len, splits.values())), **metric}


def _compute_black_box_logits(
    black_box: BlackBoxTeacher, dataset_splits: DatasetSplits, context: StageContext
) -> dict[str, Any]:
    """Write the logits of a black box."""
    _require_disk_for_logits(dataset_splits, len(dataset_splits.label_names), context)

    def predict() -> dict[str, Any]:
        teacher_context = run_datasets.black_box_context(
            context.recipe,
            dataset_splits,
            context.artifacts["teacher"],
            context.reporter,
            context.options,
        )
        logits_by_split = black_box_queries.predict_teacher_logits(
            black_box, teacher_context, _splits_to_predict(dataset_splits)
        )
        teacher_logits.write_teacher_logits(logits_by_split, context.output)
        subject = f"The teacher ({black_box.title}):"
        metric = _validation_metric(
            dataset_splits,
            dataset_splits.label_names,
            logits_by_split["validation"],
            subject,
            context,
        )
        return {"rows": sum(map(len, logits_by_split.values())), **metric}

    return distributed.broadcast_from_rank0(predict)


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
    value = task.score(task.predict(logits), _validation_labels(dataset_splits, label_names))
    if subject:
        context.reporter.info(
            f"{subject} {task.primary_metric_title} on validation is {value:.4f}."
        )
    return {task.primary_metric: value}


def _validation_labels(dataset_splits: DatasetSplits, label_names: Sequence[str]) -> np.ndarray:
    label_indices = dataset_splits.match_model_labels(
        label_names, dataset_splits.present_labels("validation")
    )
    return dataset_splits.ground_truth_labels(
        dataset_splits.splits["validation"], label_indices, len(label_names)
    )


def _splits_to_predict(dataset_splits: DatasetSplits) -> list[str]:
    """Return the splits that the student trains on; without labels, the test split too."""
    candidates = _STUDENT_SPLITS if dataset_splits.has_labels else (*_STUDENT_SPLITS, _TEST_SPLIT)
    return [split for split in candidates if split in dataset_splits.splits]


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
    collator, truncation = create_collator(model, tokenizer), context.recipe.data.truncation
    advance = StageProgress(context.reporter, sum(map(len, splits.values())))
    return {
        name: predict_logits_distributed(
            model,
            collator,
            tokenize_dataset(split, tokenizer, limit, truncation),
            _BATCH_SIZE,
            advance,
        )
        for name, split in splits.items()
    }


def _out_of_fold_logits(context: StageContext, dataset_splits: DatasetSplits) -> np.ndarray:
    """Predict each training text by a teacher that was fine-tuned on the other folds."""
    teacher_config, train = context.recipe.white_box_teacher, dataset_splits.splits["train"]
    assert teacher_config is not None and teacher_config.cross_fit_folds is not None
    folds = make_cross_validation_folds(
        train, dataset_splits.task, teacher_config.cross_fit_folds, context.recipe.seed
    )
    out_of_fold = np.empty((len(train), len(dataset_splits.label_names)), dtype=np.float32)
    for number, (training_rows, held_out_rows) in enumerate(folds, 1):
        logits_file = context.scratch / f"fold-{number}.npy"
        if not logits_file.exists():
            context.reporter.info(
                f"Part {number} of {teacher_config.cross_fit_folds} is left out of fine-tuning."
            )
            fold_context = replace(context, scratch=context.scratch / f"fold-{number}")
            # The fold is removed with all its windows and labels.
            training_splits = replace(
                dataset_splits,
                splits={**dataset_splits.splits, "train": train.select(training_rows)},
            )
            model, tokenizer, arguments = stage_training.prepare_teacher_fine_tuning(
                fold_context, f"teacher-fold-{number}", training_splits
            )
            train_model(model, tokenizer, **arguments)
            logits = _predict_logits(
                model, tokenizer, {"part": train.select(held_out_rows)}, context
            )["part"]
            if distributed.is_main_process():
                with open_atomically(logits_file) as file:
                    np.save(file, logits)
            distributed.barrier()
        out_of_fold[held_out_rows] = np.load(logits_file)
    return out_of_fold


def _average_with_other_teachers(
    logits: np.ndarray, split: str, label_names: tuple[str, ...], task: Task, context: StageContext
) -> np.ndarray:
    """Average all teachers' predictions, as logits in this teacher's order of classes."""
    teacher_config = context.recipe.white_box_teacher
    assert teacher_config is not None
    all_logits, weights = [logits], [teacher_config.weight]
    for folder, other in zip(context.required_runs, teacher_config.ensemble_with, strict=True):
        other_label_names = model_io.get_label_names(model_io.load_config(folder / "teacher"))
        other_logits = np.asarray(
            teacher_logits.load_teacher_logits(folder / "teacher-outputs")[split][TEACHER_LOGITS]
        )
        all_logits.append(other_logits[:, match_labels(label_names, other_label_names)])
        weights.append(other.weight)
    return teacher_logits.ensemble_teacher_logits(all_logits, weights, task)


def fit_and_save_black_box_teacher(
    black_box: BlackBoxTeacher, dataset_splits: DatasetSplits, context: StageContext
) -> dict[str, Any]:
    """Fit a black-box teacher on train, and save it with its description in its folder."""
    about = {"teacher": black_box.title, "labels": dataset_splits.label_names}

    def fit() -> None:
        context.output.mkdir()
        black_box.fit(
            run_datasets.black_box_context(
                context.recipe, dataset_splits, context.output, context.reporter, context.options
            )
        )
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
