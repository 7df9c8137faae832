"""Check data and models before anything is written or trained."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import resources
from kdcli.data.cross_validation import make_cross_validation_folds
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
from kdcli.models.padding import padding_warning
from kdcli.pipeline import run_datasets, transfer_texts
from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.pipeline.student_creation import build_family_student, student_architecture
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig, TeacherModelConfig
from kdcli.teachers import registry
from kdcli.teachers.black_box_context import BlackBoxContext
from kdcli.training import experiment_trackers, label_loss

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ValidatedInputs:
    """Texts, and models without weights.

    Attributes:
        dataset_splits: The texts.
        tokenizer: The teacher's tokenizer; the student's if the teacher is a black box.
        teacher: The teacher; None if it is a black box.
        other_teachers: Further teachers, whose logits are averaged with the teacher's.
        student: The student.
        max_transfer_texts: Upper bound of the number of texts in the transfer set.
    """

    dataset_splits: DatasetSplits
    tokenizer: "PreTrainedTokenizerBase"
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
    corpus = run_datasets.load_recipe_dataset(recipe, reporter)
    check_losses_for_task(recipe.distill.losses_for_task(corpus.task), corpus.task)
    label_loss.check_label_options_for_task(recipe.distill, corpus.task, "distill")
    whole, beyond = transfer_texts.validate_transfer_set(
        recipe, corpus, reporter, allow_pickle=options.allow_pickle, load_weights=load_weights
    )
    teacher, tokenizer, others, loaded = None, None, [], None
    if not isinstance(recipe.teacher, ClassifierTeacherConfig):
        setting = BlackBoxContext(
            whole,
            recipe.data,
            Path(),
            reporter,
            options.allow_pickle,
            options.allow_code,
            options.allow_endpoints,
        )
        registry.check_teacher(recipe.teacher, setting, recipe.distill.losses_for_task(corpus.task))
        _require_memory_for_logits(corpus, len(corpus.label_names))
    else:
        seen = partial(
            _validate_teacher,
            recipe=recipe,
            dataset_splits=corpus,
            allow_pickle=options.allow_pickle,
            load_weights=load_weights,
        )
        config, tokenizer, loaded = seen(recipe.teacher)
        # Only the teacher that is pruned stays in memory.
        others = [seen(one)[0] for one in recipe.teacher.ensemble_with]
        for one in (recipe.teacher, *recipe.teacher.ensemble_with):
            if one.cross_fit_folds is not None:
                make_cross_validation_folds(
                    corpus.splits["train"], corpus.task, one.cross_fit_folds, recipe.seed
                )
        teacher = tensor_slicing.build_meta_model(config)
        if note := padding_warning(teacher, "The teacher"):
            reporter.info(note)
    select_evaluation_splits(recipe.evaluate, corpus)
    student, own = _validate_student(
        recipe,
        loaded or teacher,
        tokenizer,
        corpus,
        allow_pickle=options.allow_pickle,
        load_weights=load_weights,
    )
    if teacher is None:
        return ValidatedInputs(corpus, own, None, (), student, beyond)
    sizes = [model_io.count_parameters(model) for model in (student, teacher)]
    if sizes[0] >= sizes[1]:
        reporter.info(
            "The student is no smaller than its teacher: {:.2f} M parameters to {:.2f} M.".format(
                *(size / 1e6 for size in sizes)
            )
        )
    beside = tuple(tensor_slicing.build_meta_model(config) for config in others)
    return ValidatedInputs(corpus, tokenizer or own, teacher, beside, student, beyond)


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
    finished = teacher_config.fine_tune is None
    if teacher_config.fine_tune is None:
        parts = {"train", "validation", *recipe.evaluate.splits} & dataset_splits.splits.keys()
        used = {label for part in parts for label in dataset_splits.present_labels(part)}
        model_io.check_problem_type(
            config, dataset_splits.task, f"The teacher {teacher_config.model}"
        )
        dataset_splits.match_model_labels(model_io.get_label_names(config), sorted(used))
    else:
        label_loss.check_label_options_for_task(
            teacher_config.fine_tune, dataset_splits.task, "teacher.fine_tune"
        )
        model_io.set_label_names(config, dataset_splits.label_names, dataset_splits.task.name)
    _require_memory_for_logits(dataset_splits, config.num_labels)
    tokenizer, model = model_io.load_tokenizer(folder), None
    if load_weights:
        new = () if finished else (dataset_splits.label_names, dataset_splits.task.name)
        model = model_io.load_classifier(folder, *new, allow_new_head=not finished)
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
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Return the student without weights, and its tokenizer."""
    spec = recipe.student
    if spec.family is not None:
        student, own = build_family_student(
            recipe, dataset_splits, teacher, tokenizer, allow_pickle=allow_pickle, on_meta=True
        )
        return student, own
    wanted = run_datasets.all_texts(dataset_splits.splits["train"]) if spec.requires_texts else ()
    if spec.model is None:
        assert teacher is not None and tokenizer is not None, "a recipe of a black box names one"
        keep = layer_selection.select_layers(spec, layer_stacks.find_layer_stacks(teacher))
        narrower = width_and_vocab_pruning.plan_width_and_vocab(spec, teacher, tokenizer, wanted)
        form, student = student_architecture(spec, teacher, narrower, keep)
        if load_weights and not narrower.random_weights:
            # Refuse layers that make no model now, not after the teacher's training.
            layer_pruning.prune_layers(teacher, keep, form)
        return student, tokenizer
    folder = model_io.locate_model(spec.model, spec.revision, allow_pickle=allow_pickle)
    config, tokenizer = model_io.load_config(folder), model_io.load_tokenizer(folder)
    labels, task = dataset_splits.label_names, dataset_splits.task.name
    if teacher is not None:
        labels, task = model_io.get_label_names(teacher.config), teacher.config.problem_type
    model_io.set_label_names(config, labels, task)
    if load_weights:
        model = model_io.load_classifier(folder, labels, task, allow_new_head=True)
        run_datasets.configure_tokenizer_and_padding(
            recipe, dataset_splits, model, tokenizer, f"The student {spec.model}"
        )
    narrower = width_and_vocab_pruning.plan_width_and_vocab(
        spec, tensor_slicing.build_meta_model(config), tokenizer, wanted
    )
    return tensor_slicing.build_meta_model(narrower.config), tokenizer
