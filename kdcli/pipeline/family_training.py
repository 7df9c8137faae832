"""Train a student of a family that trains its students itself."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import concatenate_datasets

from kdcli import distributed
from kdcli.data import column_access
from kdcli.data.labels.label_matching import labels_to_numpy, map_labels_to_model
from kdcli.data.tokenization.windows import concat_per_text_columns
from kdcli.losses.base import ModelOutputs, required_teacher_outputs
from kdcli.losses.combined import CombinedLoss, sum_loss_terms
from kdcli.models import model_io
from kdcli.pipeline import run_datasets
from kdcli.pipeline.stage import StageContext
from kdcli.recipe.student_family_plugin import FamilyTrainingData, StudentFamilyPlugin
from kdcli.tasks import MULTI_LABEL, REGRESSION, Task
from kdcli.training import teacher_logits
from kdcli.training.label_loss import build_label_loss_options
from kdcli.training.train import library_versions
from kdcli.training.training_history import EpochMetrics

if TYPE_CHECKING:
    from datasets import Dataset

    from kdcli.losses.base import Loss


def train_family_student(
    family: StudentFamilyPlugin,
    losses: "Sequence[Loss]",
    context: StageContext,
    *,
    with_transfer: bool,
) -> dict[str, Any]:
    """Train the student of a stage, and write its folder.

    Args:
        family: The family, with its options.
        losses: The losses to minimise.
        context: The stage's context.
        with_transfer: Train on the transfer set too, if there is one.

    Returns:
        The stage's result; see `DistillStage.run`.
    """
    recipe = context.recipe
    dataset_splits = run_datasets.load_teacher_labeled_dataset(context, with_transfer=with_transfer)
    task, untrained = dataset_splits.task, context.artifacts["student"]
    labels = model_io.get_label_names(model_io.load_label_config(untrained))
    rows = {}
    for split in ("train", "validation", run_datasets.TRANSFER_SPLIT):
        if (part := dataset_splits.splits.get(split)) is not None:
            texts = column_access.text_column_names(part)
            rows[split] = map_labels_to_model(part, dataset_splits, labels)
            rows[split] = rows[split].select_columns([*texts, "labels"])
    if "logits" in required_teacher_outputs(losses):
        logits = teacher_logits.load_teacher_logits(context.artifacts["outputs"])
        rows = {split: concat_per_text_columns(rows[split], logits[split]) for split in rows}
    if (transfer := rows.pop(run_datasets.TRANSFER_SPLIT, None)) is not None:
        rows["train"] = concatenate_datasets([rows["train"], transfer])
    options = build_label_loss_options(
        recipe.distill, labels_to_numpy(rows["train"]), len(labels), task
    )
    objective = _Objective(CombinedLoss(losses, None, options, task), rows, task)
    result = family.train(
        FamilyTrainingData(
            untrained=untrained,
            output=context.output if distributed.is_main_process() else None,
            splits=rows,
            num_outputs=len(labels),
            training_loss=lambda logits: sum_loss_terms(objective.terms("train", logits)),
            validation_score=lambda logits: -sum(objective.values("validation", logits).values()),
            history_row=objective.history_row,
            max_length=recipe.data.max_length,
            truncation=recipe.data.truncation,
            advance=context.reporter.advance,
        )
    )
    return {**result, "versions": library_versions()}


class _Objective:
    """The losses of all texts of a split at once."""

    def __init__(self, loss: CombinedLoss, rows: "Mapping[str, Dataset]", task: Task) -> None:
        self._loss, self._task = loss, task
        self._truths = {split: labels_to_numpy(part) for split, part in rows.items()}
        self._labels = {
            split: torch.tensor(truth, dtype=torch.float32 if task is REGRESSION else None)
            for split, truth in self._truths.items()
        }
        self._teacher = {
            split: torch.from_numpy(
                part.select_columns(teacher_logits.TEACHER_LOGITS)
                .with_format("numpy")[:][teacher_logits.TEACHER_LOGITS]
                .astype(np.float32)
            )
            for split, part in rows.items()
            if teacher_logits.TEACHER_LOGITS in part.column_names
        }

    def terms(self, split: str, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        teacher = self._teacher.get(split)
        outputs = ModelOutputs(logits if teacher is None else teacher)
        return self._loss(ModelOutputs(logits), outputs, self._labels[split])

    def values(self, split: str, logits: np.ndarray) -> dict[str, float]:
        with torch.no_grad():
            terms = self.terms(split, torch.from_numpy(logits))
        return {name: float(value) for name, value in terms.items()}

    def history_row(self, steps: int, logits: Mapping[str, np.ndarray]) -> dict[str, Any]:
        trained, held_out = (self.values(split, logits[split]) for split in ("train", "validation"))
        predicted = self._task.predict(logits["validation"])
        truth = self._truths["validation"]
        if self._task is MULTI_LABEL:
            truth = truth.astype(bool)
        metric = {self._task.primary_metric: self._task.score(predicted, truth)}
        return EpochMetrics(
            1,
            steps,
            sum(trained.values()),
            trained,
            sum(held_out.values()),
            held_out,
            metric,
        ).to_row()
