"""Stage `distill`: train the student on the teacher's outputs and the labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from kdcli.pipeline.stage import Stage, StageContext
from kdcli.recipe.schema import Recipe
from kdcli.recipe.training import TrainingConfig
from kdcli.tasks import Task

if TYPE_CHECKING:
    from kdcli.data.dataset_splits import DatasetSplits
    from kdcli.losses.base import Loss
    from kdcli.pipeline.preflight import ValidatedInputs
    from kdcli.pipeline.run_estimate import EstimateInputs


class DistillStage(Stage):
    """Train the student; a base class for the students that it is compared with.

    Attributes:
        uses_transfer_set: Train on the transfer set too, if there is one. A student that trains
            without it gets more epochs, for about as many optimiser steps.
    """

    name = "distill"
    description = "train the student"
    artifact = "student"
    needs: ClassVar[tuple[str, ...]] = ("student", "transfer", "outputs")
    recipe_parts = ("data", "distill", "seed")
    ignored_keys: ClassVar[tuple[str, ...]] = ("data.unlabeled",)
    version = 3
    all_processes = True
    uses_transfer_set: ClassVar[bool] = True

    def losses(self, context: StageContext, task: Task) -> "Sequence[Loss]":
        """Return the loss terms to train with."""
        return context.recipe.distill.losses_for_task(task)

    def validate(self, recipe: Recipe, inputs: "ValidatedInputs") -> None:
        """Check that the device trains in the recipe's precision.

        Raises:
            RecipeError: It doesn't.
        """
        from kdcli.models.device import resolve_precision

        resolve_precision(recipe.distill.precision)

    def estimate(self, workload: "EstimateInputs") -> dict[str, Any]:
        """Estimate the training, and the teacher's passes for losses on its hidden states."""
        from kdcli.losses.base import INTERNAL_OUTPUTS, required_teacher_outputs

        recipe, student = workload.recipe, workload.student
        family = recipe.student.student_family
        if family is not None and family.trains_itself:
            return {"parameters": student.parameters}
        cost = workload.training_cost(recipe.distill, student, workload.distillation_texts)
        losses = recipe.distill.losses_for_task(workload.inputs.dataset_splits.task)
        internal_outputs = required_teacher_outputs(losses) & INTERNAL_OUTPUTS
        if workload.teacher is not None and internal_outputs:
            # Hidden states are cached if there is room; attentions are computed in every epoch.
            passes = 1 if internal_outputs == {"hidden_states"} else recipe.distill.epochs
            texts = passes * workload.texts_for_teacher
            cost["seconds"] += workload.forward_seconds(texts, workload.teacher.flops_per_token)
        return cost

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the trained student's folder.

        Returns:
            `history`, a row for each epoch; `parameters`; `versions` of the libraries.
        """
        from datasets import concatenate_datasets
        from transformers import set_seed

        from kdcli.data.labels.label_matching import labels_to_numpy
        from kdcli.data.tokenization.windows import concat_per_text_columns
        from kdcli.losses.base import INTERNAL_OUTPUTS, required_teacher_outputs
        from kdcli.losses.combined import CombinedLoss
        from kdcli.models import model_io
        from kdcli.pipeline import run_datasets, stage_training
        from kdcli.training import model_outputs, teacher_logits
        from kdcli.training.label_loss import build_label_loss_options
        from kdcli.training.train import TrainingContext, library_versions, train_model

        recipe, transfer_split = context.recipe, run_datasets.TRANSFER_SPLIT
        family = recipe.student.student_family
        if family is not None and family.trains_itself:
            from kdcli.pipeline.family_training import train_family_student

            task = run_datasets.load_recipe_dataset(recipe, context.reporter).task
            return train_family_student(
                family, self.losses(context, task), context, with_transfer=self.uses_transfer_set
            )
        student = model_io.load_classifier(context.artifacts["student"])
        tokenizer = model_io.load_tokenizer(context.artifacts["student"])
        dataset_splits = run_datasets.load_teacher_labeled_dataset(context)
        run_datasets.configure_tokenizer_and_padding(
            recipe, dataset_splits, student, tokenizer, "The student"
        )
        has_transfer_set = transfer_split in dataset_splits.splits
        splits = ["train", "validation"]
        splits += [transfer_split] * (self.uses_transfer_set and has_transfer_set)
        rows = run_datasets.tokenize_splits(
            recipe, dataset_splits, student, tokenizer, splits=splits, reporter=context.reporter
        )
        task = dataset_splits.task
        losses = self.losses(context, task)
        outputs = required_teacher_outputs(losses)
        if "logits" in outputs:
            logits = teacher_logits.load_teacher_logits(context.artifacts["outputs"])
            rows = {name: concat_per_text_columns(rows[name], logits[name]) for name in splits}
        if transfer_split in rows:
            rows["train"] = concatenate_datasets([rows["train"], rows.pop(transfer_split)])
        teacher, layer_mapping, cache = None, None, None
        if outputs & INTERNAL_OUTPUTS:
            teacher, layer_mapping = stage_training.load_teacher_and_layer_mapping(
                student, tokenizer, dataset_splits, context
            )
            for model in (student, teacher):
                model_outputs.enable_model_outputs(model, outputs)
        label_options = build_label_loss_options(
            recipe.distill, labels_to_numpy(rows["train"]), student.config.num_labels, task
        )
        # Projections are drawn at random: earlier stages have to leave no trace in the generator.
        set_seed(recipe.student_seed)
        loss_fn = CombinedLoss(losses, layer_mapping, label_options, task)
        if (
            teacher is not None
            and outputs & INTERNAL_OUTPUTS == {"hidden_states"}
            and (cached := stage_training.cache_hidden_states(
                teacher, tokenizer, rows, loss_fn, context, student=student
            ))
        ):  # fmt: skip
            (rows, cache), teacher = cached, None
        config: TrainingConfig = recipe.distill
        if has_transfer_set and not self.uses_transfer_set:
            config = _match_training_steps(config, dataset_splits)
        epochs = train_model(
            student,
            tokenizer,
            rows,
            config,
            loss_fn,
            run=TrainingContext.for_stage(context, self.name, recipe.student_seed),
            teacher=teacher,
            hidden_state_cache=cache,
        )
        save = model_io.save_model if family is None else family.save
        save(student, tokenizer, context.output)
        return {
            "history": [epoch.to_row() for epoch in epochs],
            "parameters": model_io.count_parameters(student),
            "versions": library_versions(),
        }


def _match_training_steps(
    config: TrainingConfig, dataset_splits: "DatasetSplits"
) -> TrainingConfig:
    """Raise the epochs so that training without the transfer set takes as many steps."""
    from kdcli.pipeline.run_datasets import TRANSFER_SPLIT

    train_size = len(dataset_splits.splits["train"])
    transfer_size = len(dataset_splits.splits[TRANSFER_SPLIT])
    steps = config.epochs * config.count_optimizer_steps(train_size + transfer_size)
    epochs = round(steps / config.count_optimizer_steps(train_size))
    return config.model_copy(update={"epochs": epochs})
