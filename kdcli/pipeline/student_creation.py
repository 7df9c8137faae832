"""Create untrained students: pruned from a teacher, or from a smaller pretrained model."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import set_seed

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import (
    KdError,
    ModelError,
    as_resource_error,
    first_message_line,
)
from kdcli.models import (
    model_io,
    tensor_slicing,
    width_and_vocab_pruning,
)
from kdcli.models.padding_invariance import adopt_tokenizer_pad_token
from kdcli.models.student_pruning import (
    SourceModel,
    StudentSummary,
    plan_student_pruning,
    write_pruned_student,
)
from kdcli.pipeline import run_datasets
from kdcli.pipeline.stage import StageContext
from kdcli.recipe.schema import Recipe
from kdcli.recipe.student_family_plugin import StudentFamilyContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write_initial_student(context: StageContext) -> StudentSummary:
    """Write the untrained student's folder.

    Returns:
        `origin`, sentences on where its weights come from, of which `besides` are those that don't
        name the pretrained model, if it starts from one; `layers` (those of the teacher that
        were kept; empty for another model) and `parameters`; of a pruned student also what
        `create_untrained_student` returns.
    """
    student_config, folder = context.recipe.student, context.artifacts["teacher"]
    dataset_splits = run_datasets.load_recipe_dataset(context.recipe, context.reporter)
    rows, max_length = dataset_splits.splits["train"], context.recipe.data.max_length
    set_seed(context.recipe.student_seed)
    if student_config.family is not None:
        return _write_family_student(context, dataset_splits)
    reference, model_folder = context.recipe.teacher.title, folder
    if student_config.model is not None:
        reference = student_config.model
        model_folder = model_io.locate_model(
            student_config.model, student_config.revision, allow_pickle=context.options.allow_pickle
        )
    if context.recipe.white_box_teacher is None:
        labels, task = dataset_splits.label_names, dataset_splits.task.name
    else:
        config = model_io.load_config(folder)
        labels, task = model_io.get_label_names(config), config.problem_type
    is_pretrained = student_config.model is not None
    initial_bias = dataset_splits.label_prior(labels) if is_pretrained else None
    model = model_io.load_classifier(
        model_folder, labels, task, allow_new_head=is_pretrained, initial_bias=initial_bias
    )
    tokenizer = model_io.load_tokenizer(model_folder)
    run_datasets.configure_tokenizer_and_padding(
        context.recipe, dataset_splits, model, tokenizer, f"The student {reference}"
    )
    width_and_vocab = width_and_vocab_pruning.plan_width_and_vocab(
        student_config,
        model,
        tokenizer,
        run_datasets.all_texts(rows) if student_config.requires_texts else (),
    )
    source_model = SourceModel(reference, model_folder, model, tokenizer, rows, max_length)
    if student_config.model is None:
        student_plan = plan_student_pruning(
            source_model, student_config, width_and_vocab, context.reporter.advance
        )
        return student_plan.summary | write_pruned_student(
            source_model, student_plan, context.output
        )
    student, tokenizer = width_and_vocab_pruning.apply_width_and_vocab(
        width_and_vocab, model, tokenizer, source_model.unpadded_batches, has_trained_head=False
    )
    adopt_tokenizer_pad_token(student, tokenizer)
    model_io.save_model(student, tokenizer, context.output)
    remarks = [
        *_describe_earlier_pruning(model),
        *width_and_vocab_pruning.describe_width_and_vocab(width_and_vocab),
    ]
    return {
        "origin": " ".join(
            [f"It starts from the pretrained model {student_config.model}.", *remarks]
        ),
        "besides": remarks,
        "layers": [],
        "parameters": model_io.count_parameters(student),
    }


def build_family_student(
    recipe: Recipe,
    dataset_splits: DatasetSplits,
    teacher: "PreTrainedModel | None",
    tokenizer: "PreTrainedTokenizerBase | None",
    *,
    allow_pickle: bool,
    on_meta: bool = False,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase | None]":
    """Build the student of `student.family`, with the teacher's labels and padding, and check it.

    Args:
        recipe: A recipe with a family.
        dataset_splits: The texts.
        teacher: The teacher; None for a black box.
        tokenizer: Its tokenizer.
        allow_pickle: Whether weights that the family loads may be a pickle.
        on_meta: Build it without weights.

    Raises:
        KdError: The family can't build it, or what it built can't be used.
    """
    family = recipe.student.student_family
    assert family is not None
    labels, task = dataset_splits.label_names, dataset_splits.task.name
    if teacher is not None:
        labels, task = model_io.get_label_names(teacher.config), teacher.config.problem_type
    family.validate_recipe(recipe, dataset_splits)
    family_context = StudentFamilyContext(
        teacher,
        copy.deepcopy(tokenizer) if teacher is not None else None,
        run_datasets.all_texts(dataset_splits.splits["train"]),
        labels,
        task,
        allow_pickle,
        _locate_encoder(recipe, allow_pickle=allow_pickle),
    )
    name = f"student.family: {recipe.student.family}"
    try:
        student, student_tokenizer = (family.estimate if on_meta else family.build)(family_context)
    except KdError:
        raise
    except Exception as error:  # the family's code may raise anything
        raise as_resource_error(error) or ModelError(
            f"{name} fails: {type(error).__name__}: {first_message_line(error)}",
            "Change student.options, or mend the family.",
        ) from error
    if student.config.num_labels != len(labels):
        raise ModelError(
            f"{name} built a model with {student.config.num_labels} outputs for {len(labels)} "
            "labels.",
            "Its configuration takes num_labels=len(context.label_names).",
        )
    model_io.set_label_names(student.config, labels, task)
    # transformers has to load the student from its configuration alone.
    meta = tensor_slicing.build_meta_model(student.config)
    if student_tokenizer is None and family.trains_itself:
        return meta if on_meta else student, None
    if student_tokenizer is None:
        raise ModelError(f"{name} built a model without a tokenizer.")
    if student_tokenizer.pad_token is None:
        student_tokenizer.pad_token = student_tokenizer.eos_token
    if len(student_tokenizer) > meta.get_input_embeddings().num_embeddings:
        raise ModelError(f"{name} built a model with fewer embeddings than its tokenizer's tokens.")
    if on_meta:
        return meta, student_tokenizer
    run_datasets.configure_tokenizer_and_padding(
        recipe, dataset_splits, student.float().eval(), student_tokenizer, f"The student of {name}"
    )
    adopt_tokenizer_pad_token(student, student_tokenizer)
    return student, student_tokenizer


def _locate_encoder(recipe: Recipe, *, allow_pickle: bool) -> Path | None:
    """Locate the encoder that a family may start from: the student's model, or the backbone."""
    student, teacher = recipe.student, recipe.white_box_teacher
    if student.model is not None:
        return model_io.locate_model(student.model, student.revision, allow_pickle=allow_pickle)
    if teacher is None:
        return None
    return model_io.locate_model(teacher.model, teacher.revision, allow_pickle=allow_pickle)


def _write_family_student(context: StageContext, dataset_splits: DatasetSplits) -> StudentSummary:
    """Write the folder of a student of another family; see `write_initial_student`."""
    family, family_name = context.recipe.student.student_family, context.recipe.student.family
    assert family is not None and family_name is not None
    recipe, folder, teacher, tokenizer = context.recipe, context.artifacts["teacher"], None, None
    if recipe.white_box_teacher is not None:
        teacher, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
        set_seed(recipe.student_seed)
    student, student_tokenizer = build_family_student(
        recipe, dataset_splits, teacher, tokenizer, allow_pickle=context.options.allow_pickle
    )
    family.save_untrained(student, student_tokenizer, context.output)
    return {
        "origin": family.describe(student, family_name),
        "layers": [],
        "parameters": model_io.count_parameters(student),
    }


def _describe_earlier_pruning(model: "PreTrainedModel") -> list[str]:
    """Describe the teacher that a model was pruned from, if its configuration says so."""
    match getattr(model.config, "kd", None):
        case {"teacher": str(teacher), "layers": list(kept), "teacher_layers": int(depth)}:
            which = ", ".join(map(str, kept))
            return [f"That was cut out of {teacher}: layers {which} of {depth} (counted from 0)."]
    return []
