"""Check data and models before anything is written or trained."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import resources
from kdcli.data.cross_fitting import make_cross_validation_folds
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.evaluation.evaluation_splits import select_evaluation_splits
from kdcli.losses.base import check_losses_for_task
from kdcli.models import (
    layer_pruning,
    layer_selection,
    layer_stacks,
    model_io,
    tensor_slicing,
    width_and_vocab_pruning,
)
from kdcli.models.padding_invariance import padding_sensitivity_warning
from kdcli.models.student_pruning import build_pruned_meta_model
from kdcli.pipeline import run_datasets, transfer_texts
from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.pipeline.student_creation import build_family_student
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig, TeacherModelConfig
from kdcli.teachers import black_box_queries
from kdcli.training import experiment_trackers, label_loss

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ValidatedInputs:
    """Texts, and models without weights.

    Attributes:
        dataset_splits: The texts.
        tokenizer: The teacher's tokenizer; the student's if the teacher is a black box; None for a
            student without one.
        teacher: The teacher; None if it is a black box.
        other_teachers: Further teachers, whose logits are averaged with the teacher's.
        student: The student.
        max_transfer_texts: Upper bound of the number of texts in the transfer set.
    """

    dataset_splits: DatasetSplits
    tokenizer: "PreTrainedTokenizerBase | None"
    teacher: "PreTrainedModel | None"
    other_teachers: tuple["PreTrainedModel", ...]
    student: "PreTrainedModel"
    max_transfer_texts: int

    def student_for_recipe(
        self, recipe: Recipe, *, allow_pickle: bool = False
    ) -> "PreTrainedModel":
        """Return the student that another recipe makes of the same teacher, without weights.

        Raises:
            KdError: The teacher can't be pruned so, or the pretrained student can't be used.
        """
        return _validate_student(
            recipe,
            self.teacher,
            self.tokenizer,
            self.dataset_splits,
            allow_pickle=allow_pickle,
            load_weights=False,
        )[0]


def validate_inputs(
    recipe: Recipe,
    reporter: Reporter,
    options: RunOptions = DEFAULT_OPTIONS,
    *,
    load_weights: bool = True,
) -> ValidatedInputs:
    """Check everything that a run needs, as far as it can be known beforehand.

    Args:
        recipe: The recipe.
        reporter: Receives notes for the user.
        options: Permissions of the recipe's models, function and endpoints.
        load_weights: Load the weights too, to check that they are complete.

    Raises:
        KdError: Data, models or trackers are missing, unusable or don't match, or memory is too
            small for them.
    """
    experiment_trackers.check_trackers_installed(recipe.report_to)
    dataset_splits = run_datasets.load_recipe_dataset(recipe, reporter)
    check_losses_for_task(recipe.distill.losses_for_task(dataset_splits.task), dataset_splits.task)
    label_loss.check_label_options_for_task(recipe.distill, dataset_splits.task, "distill")
    splits_with_transfer, max_transfer_texts = transfer_texts.add_transfer_split(
        recipe,
        dataset_splits,
        reporter,
        allow_pickle=options.allow_pickle,
        load_weights=load_weights,
    )
    teacher, tokenizer, other_configs, loaded_teacher = None, None, [], None
    if not isinstance(recipe.teacher, ClassifierTeacherConfig):
        teacher_context = run_datasets.black_box_context(
            recipe, splits_with_transfer, Path(), reporter, options
        )
        black_box_queries.check_teacher(
            recipe.teacher, teacher_context, recipe.distill.losses_for_task(dataset_splits.task)
        )
        _require_memory_for_logits(dataset_splits, len(dataset_splits.label_names))
    else:
        validate_teacher = partial(
            _validate_teacher,
            recipe=recipe,
            dataset_splits=dataset_splits,
            allow_pickle=options.allow_pickle,
            load_weights=load_weights,
        )
        config, tokenizer, loaded_teacher = validate_teacher(recipe.teacher)
        # Only the teacher that is pruned stays in memory.
        other_configs = [
            validate_teacher(teacher_config)[0] for teacher_config in recipe.teacher.ensemble_with
        ]
        for teacher_config in (recipe.teacher, *recipe.teacher.ensemble_with):
            if teacher_config.cross_fit_folds is not None:
                make_cross_validation_folds(
                    dataset_splits.splits["train"],
                    dataset_splits.task,
                    teacher_config.cross_fit_folds,
                    recipe.seed,
                )
        teacher = tensor_slicing.build_meta_model(config)
        if note := padding_sensitivity_warning(teacher, "The teacher"):
            reporter.info(note)
    select_evaluation_splits(recipe.evaluate, dataset_splits)
    student, student_tokenizer = _validate_student(
        recipe,
        loaded_teacher or teacher,
        tokenizer,
        dataset_splits,
        allow_pickle=options.allow_pickle,
        load_weights=load_weights,
    )
    if teacher is None:
        return ValidatedInputs(
            dataset_splits, student_tokenizer, None, (), student, max_transfer_texts
        )
    sizes = [model_io.count_parameters(model) for model in (student, teacher)]
    if sizes[0] >= sizes[1]:
        reporter.info(
            "The student is no smaller than its teacher: {:.2f} M parameters to {:.2f} M.".format(
                *(size / 1e6 for size in sizes)
            )
        )
    other_teachers = tuple(tensor_slicing.build_meta_model(config) for config in other_configs)
    return ValidatedInputs(
        dataset_splits,
        tokenizer or student_tokenizer,
        teacher,
        other_teachers,
        student,
        max_transfer_texts,
    )


def _validate_teacher(
    teacher_config: TeacherModelConfig,
    recipe: Recipe,
    dataset_splits: DatasetSplits,
    *,
    allow_pickle: bool,
    load_weights: bool,
) -> tuple["PretrainedConfig", "PreTrainedTokenizerBase", "PreTrainedModel | None"]:
    """Return a teacher's config with the data's labels, its tokenizer, and the model if loaded."""
    folder = model_io.locate_model(
        teacher_config.model, teacher_config.revision, allow_pickle=allow_pickle
    )
    config = model_io.load_config(folder)
    is_finished = teacher_config.fine_tune is None
    if teacher_config.fine_tune is None:
        used_splits = {
            "train",
            "validation",
            *recipe.evaluate.splits,
        } & dataset_splits.splits.keys()
        used_labels = {
            label for part in used_splits for label in dataset_splits.present_labels(part)
        }
        model_io.check_problem_type(
            config, dataset_splits.task, f"The teacher {teacher_config.model}"
        )
        dataset_splits.match_model_labels(model_io.get_label_names(config), sorted(used_labels))
    else:
        label_loss.check_label_options_for_task(
            teacher_config.fine_tune, dataset_splits.task, "teacher.fine_tune"
        )
        model_io.set_label_names(config, dataset_splits.label_names, dataset_splits.task.name)
    _require_memory_for_logits(dataset_splits, config.num_labels)
    tokenizer, model = model_io.load_tokenizer(folder), None
    if load_weights:
        head_arguments = (
            () if is_finished else (dataset_splits.label_names, dataset_splits.task.name)
        )
        model = model_io.load_classifier(folder, *head_arguments, allow_new_head=not is_finished)
        run_datasets.configure_tokenizer_and_padding(
            recipe, dataset_splits, model, tokenizer, f"The teacher {teacher_config.model}"
        )
    return config, tokenizer, model


def _require_memory_for_logits(dataset_splits: DatasetSplits, num_labels: int) -> None:
    # Linux grants more memory than it has, and kills the process that uses it.
    rows = sum(len(dataset_splits.splits[part]) for part in ("train", "validation"))
    resources.require_memory(
        4 * rows * num_labels,
        f"Asking the teacher about {rows:,} texts and {num_labels:,} labels",
        "Take fewer texts or labels, or a larger machine.",
    )


def _validate_student(
    recipe: Recipe,
    teacher: "PreTrainedModel | None",
    tokenizer: "PreTrainedTokenizerBase | None",
    dataset_splits: DatasetSplits,
    *,
    allow_pickle: bool,
    load_weights: bool,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """Return the student without weights, and its tokenizer."""
    student_config = recipe.student
    if student_config.family is not None:
        student, student_tokenizer = build_family_student(
            recipe, dataset_splits, teacher, tokenizer, allow_pickle=allow_pickle, on_meta=True
        )
        return student, student_tokenizer
    texts = (
        run_datasets.all_texts(dataset_splits.splits["train"])
        if student_config.requires_texts
        else ()
    )
    if student_config.model is None:
        assert teacher is not None and tokenizer is not None, "a recipe of a black box names one"
        kept_layers = layer_selection.select_layers(
            student_config, layer_stacks.find_layer_stacks(teacher)
        )
        width_and_vocab = width_and_vocab_pruning.plan_width_and_vocab(
            student_config, teacher, tokenizer, texts
        )
        architecture, student = build_pruned_meta_model(
            student_config, teacher, width_and_vocab, kept_layers
        )
        if load_weights and not width_and_vocab.random_weights:
            # Refuse layers that make no model now, not after the teacher's training.
            layer_pruning.prune_layers(teacher, kept_layers, architecture)
        return student, tokenizer
    folder = model_io.locate_model(
        student_config.model, student_config.revision, allow_pickle=allow_pickle
    )
    config, tokenizer = model_io.load_config(folder), model_io.load_tokenizer(folder)
    labels, task = dataset_splits.label_names, dataset_splits.task.name
    if teacher is not None:
        labels, task = model_io.get_label_names(teacher.config), teacher.config.problem_type
    model_io.set_label_names(config, labels, task)
    if load_weights:
        model = model_io.load_classifier(folder, labels, task, allow_new_head=True)
        run_datasets.configure_tokenizer_and_padding(
            recipe, dataset_splits, model, tokenizer, f"The student {student_config.model}"
        )
    width_and_vocab = width_and_vocab_pruning.plan_width_and_vocab(
        student_config, tensor_slicing.build_meta_model(config), tokenizer, texts
    )
    return tensor_slicing.build_meta_model(width_and_vocab.config), tokenizer
