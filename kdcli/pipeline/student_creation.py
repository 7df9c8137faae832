"""Create untrained students: pruned from a teacher, or from a smaller pretrained model."""

import copy
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import set_seed

from kdcli.data.column_access import sample_texts
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.tokenization.batch_sampler import length_sorted_batches
from kdcli.data.tokenization.tokenize import token_lengths, tokenize_dataset
from kdcli.errors import (
    KdError,
    ModelError,
    UsageError,
    as_resource_error,
    first_message_line,
)
from kdcli.models import (
    layer_importance,
    layer_pruning,
    layer_selection,
    layer_stacks,
    model_io,
    prunable_units,
    tensor_slicing,
    width_and_vocab_pruning,
)
from kdcli.models.layer_stacks import LayerIndices, LayerStack
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.model_complexity import count_parameters_and_flops
from kdcli.models.padding import adopt_tokenizer_pad_token, align_padding, create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.models.width_and_vocab_pruning import WidthAndVocabPlan
from kdcli.pipeline import run_datasets
from kdcli.pipeline.stage import StageContext
from kdcli.progress import Reporter
from kdcli.recipe.schema import InitStudentCommandConfig, Recipe
from kdcli.recipe.student import StudentConfig
from kdcli.recipe.student_family import StudentFamilyContext
from kdcli.safe_files import refuse_symlinks

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE_TEXTS = 256
_BATCH_SIZE = 32

StudentSummary = dict[str, Any]


def build_initial_student(context: StageContext) -> StudentSummary:
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
    source_model = _SourceModel(reference, model_folder, model, tokenizer, rows, max_length)
    if student_config.model is None:
        student_plan = _plan_student(
            source_model, student_config, width_and_vocab, context.reporter.advance
        )
        return student_plan.summary | _write_student(source_model, student_plan, context.output)
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
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
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
    family_context = StudentFamilyContext(
        teacher,
        copy.deepcopy(tokenizer) if teacher is not None else None,
        run_datasets.all_texts(dataset_splits.splits["train"]),
        labels,
        task,
        allow_pickle,
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


def _write_family_student(context: StageContext, dataset_splits: DatasetSplits) -> StudentSummary:
    """Write the folder of a student of another family; see `build_initial_student`."""
    recipe, folder, teacher, tokenizer = context.recipe, context.artifacts["teacher"], None, None
    if recipe.white_box_teacher is not None:
        teacher, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
        set_seed(recipe.student_seed)
    student, student_tokenizer = build_family_student(
        recipe, dataset_splits, teacher, tokenizer, allow_pickle=context.options.allow_pickle
    )
    model_io.save_model(student, student_tokenizer, context.output)
    return {
        "origin": f"It is a {student.config.model_type} of the student family "
        f"{recipe.student.family}.",
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


def create_untrained_student(
    model_reference: str,
    init_config: InitStudentCommandConfig,
    output: Path,
    reporter: Reporter,
    *,
    overwrite: bool,
    dry_run: bool = False,
    show_summary: Callable[[StudentSummary], None] = lambda plan: None,
    allow_pickle: bool = False,
) -> StudentSummary:
    """Prune a student from a model that belongs to no run.

    Args:
        model_reference: Hub id, folder or `package:NAME/PATH` of the model.
        init_config: Which layers, which architecture, how wide; texts to measure on.
        output: The student's folder.
        reporter: Receives progress and notes.
        overwrite: Replace `output` if it exists.
        dry_run: Write nothing.
        show_summary: Called with the summary before anything is written.
        allow_pickle: Whether the model's weights may be a pickle.

    Returns:
        `origin`, one sentence on where its weights come from; `layers` (and `decoder_layers`)
        that were kept; what `width.widths` says; `parameters`, `megabytes` and
        `flops_per_token`; `teacher`, the same of the model; `speedup`, by the work that a token
        is; where there are texts, `agreement`, the share of `texts` that the untrained student
        labels as the model does.

    Raises:
        UsageError: `output` is a file, or is there already, or there are no texts to measure on.
        ModelError: The model isn't there, or can't be cut so.
        DataError: The texts can't be used.
    """
    if init_config.student.family is not None:
        raise UsageError(
            "student.family: kd init-student prunes a model, and builds no other families.",
            "Use kd distill.",
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file, not a folder.")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists.", "Name another --output, or replace it: --fresh.")
    new_folder = output.with_name(f".{output.name}.new")
    refuse_symlinks(output, new_folder)
    model_folder = model_io.locate_model(
        model_reference, init_config.student.revision, allow_pickle=allow_pickle
    )
    config = model_io.load_config(model_folder)
    if model_io.has_classification_head(model_folder):
        model_io.get_label_names(config)
    model = tensor_slicing.build_meta_model(config)
    layer_selection.select_layers(init_config.student, layer_stacks.find_layer_stacks(model))
    tokenizer = model_io.load_tokenizer(model_folder)
    sample = (
        None
        if init_config.data is None
        else run_datasets.load_unlabeled_texts(init_config.data, reporter)
    )
    texts = None if sample is None else run_datasets.all_texts(sample)
    width_and_vocab = width_and_vocab_pruning.plan_width_and_vocab(
        init_config.student, model, tokenizer, texts
    )
    if init_config.student.strategy == "importance" or not dry_run:
        set_seed(0)
        model = model_io.load_classifier(model_folder, allow_new_head=True)
        align_padding(
            model, tokenizer, model_reference, *([] if sample is None else [sample_texts(sample)]),
            max_length=get_max_length(model, tokenizer, None),
        )  # fmt: skip
    if not model_io.has_classification_head(model_folder):
        reporter.info(
            f"{model_reference} has no classification head: the student's is new, and untrained "
            f"({model.config.num_labels} labels)."
        )
    source_model = _SourceModel(model_reference, model_folder, model, tokenizer, sample)
    start, is_measured = time.monotonic(), init_config.student.strategy == "importance"
    if is_measured:
        reporter.start("student", "leave out layers on trial")
    student_plan = _plan_student(
        source_model, init_config.student, width_and_vocab, reporter.advance
    )
    if is_measured:
        reporter.finish("student", "its layers are chosen", time.monotonic() - start)
    show_summary(student_plan.summary)
    if dry_run:
        return student_plan.summary
    shutil.rmtree(new_folder, ignore_errors=True)
    try:
        result = student_plan.summary | _write_student(source_model, student_plan, new_folder)
        shutil.rmtree(output, ignore_errors=True)
        new_folder.rename(output)
    finally:
        shutil.rmtree(new_folder, ignore_errors=True)
    return result


@dataclass(frozen=True)
class _SourceModel:
    """The model to prune, under the name that the user gave it, and texts to measure on."""

    name: str
    folder: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    texts: "Dataset | None" = None
    max_length: int | None = None

    def tokenized_sample(self, tokenizer: "PreTrainedTokenizerBase") -> "Dataset":
        """Return a tokenized sample of the texts."""
        assert self.texts is not None
        chosen = self.texts.shuffle(seed=0).select(range(min(_SAMPLE_TEXTS, len(self.texts))))
        limit = get_max_length(self.model, tokenizer, self.max_length)
        return tokenize_dataset(chosen, tokenizer, limit)

    def unpadded_batches(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
    ) -> "list[dict[str, Tensor]]":
        """Return the sample in batches of equal length, without padding."""
        rows = self.tokenized_sample(tokenizer)
        rows = rows.select_columns([name for name in rows.column_names if name != "label"])
        collate = create_collator(model, tokenizer)
        batches = length_sorted_batches(token_lengths(rows), _BATCH_SIZE, equal_length=True)
        return [collate(rows.__getitems__(batch.tolist())) for batch in batches]


@dataclass(frozen=True)
class _StudentPlan:
    """Plan of a student.

    Attributes:
        width_and_vocab: Plan for width and vocabulary.
        kept_layers: The layers to keep of each stack.
        architecture: The student's architecture.
        provenance: Entry `kd` of the student's configuration.
        summary: The result, for the user.
    """

    width_and_vocab: WidthAndVocabPlan
    kept_layers: tuple[LayerIndices, ...]
    architecture: str
    provenance: Mapping[str, Any]
    summary: StudentSummary


def student_architecture(
    student_config: StudentConfig,
    model: "PreTrainedModel",
    width_and_vocab: WidthAndVocabPlan,
    kept_layers: Sequence[LayerIndices],
) -> tuple[str, "PreTrainedModel"]:
    """Return a student's architecture, and the student without weights.

    Args:
        student_config: The recipe's `student`.
        model: The teacher; its weights are not read.
        width_and_vocab: Plan for width and vocabulary.
        kept_layers: The layers to keep of each stack.
    """
    keeps_all_layers = all(
        len(kept) == stack.depth
        for kept, stack in zip(kept_layers, layer_stacks.find_layer_stacks(model), strict=True)
    )
    # A student that keeps all layers keeps the teacher's head and architecture.
    default_architecture = (
        "same" if student_config.reduces_width_or_vocab and keeps_all_layers else "auto"
    )
    architecture = layer_pruning.resolve_architecture(
        model.config,
        default_architecture
        if student_config.architecture == "auto"
        else student_config.architecture,
    )
    narrow_model = tensor_slicing.build_meta_model(width_and_vocab.config)
    return architecture, tensor_slicing.build_meta_model(
        layer_pruning.build_pruned_config(narrow_model, kept_layers, architecture)
    )


def _plan_student(
    source_model: _SourceModel,
    student_config: StudentConfig,
    width_and_vocab: WidthAndVocabPlan,
    advance: Callable[[int, int], None],
) -> _StudentPlan:
    model = source_model.model
    stacks = layer_stacks.find_layer_stacks(model)

    def select_by_importance(stack: LayerStack, count: int) -> LayerIndices:
        batches = source_model.unpadded_batches(model, source_model.tokenizer)
        return layer_importance.select_layers_greedily(
            model,
            stack,
            count,
            batches,
            use_logits=model_io.has_classification_head(source_model.folder),
            advance=advance,
        )

    kept_layers = layer_selection.select_layers(student_config, stacks, select_by_importance)
    architecture, student = student_architecture(
        student_config, model, width_and_vocab, kept_layers
    )
    teacher_size, student_size = (
        count_parameters_and_flops(model),
        count_parameters_and_flops(student),
    )
    layers_by_part = {f"{s.part}_layers" if s.part == "decoder" else "layers": list(k)
            for s, k in zip(stacks, kept_layers, strict=True)}  # fmt: skip
    teacher_widths, student_widths = (
        prunable_units.get_model_widths(model.config),
        prunable_units.get_model_widths(student.config),
    )
    origin = describe_kept_layers(stacks, kept_layers, architecture, student_config.strategy)
    if width_and_vocab.random_weights:
        origin = (
            f"It starts from nothing: a {student.config.model_type} of {len(kept_layers[0])} "
            "layers, "
            f"{student_widths['hidden']} wide, its weights drawn at random."
        )
    summary = {
        "origin": " ".join(
            [origin, *width_and_vocab_pruning.describe_width_and_vocab(width_and_vocab)]
        ),
        **layers_by_part,
        **student_widths,
        "parameters": student_size.parameters,
        "megabytes": 4 * student_size.parameters / 1e6,
        "flops_per_token": student_size.flops_per_token,
        "speedup": teacher_size.flops_per_token / student_size.flops_per_token,
        "teacher": {
            "layers": stacks[0].depth,
            **{f"{stack.part}_layers": stack.depth for stack in stacks[1:]},
            **teacher_widths,
            "parameters": teacher_size.parameters,
            "megabytes": model_io.get_weights_megabytes(source_model.folder),
            "flops_per_token": teacher_size.flops_per_token,
        },
    }
    provenance = {
        # Paths of this machine mean nothing elsewhere.
        "teacher": Path(source_model.name).name
        if Path(source_model.name).is_dir()
        else source_model.name,
        **layers_by_part,
        "teacher_layers": stacks[0].depth,
        "strategy": student_config.strategy
        if student_config.num_hidden_layers or student_config.num_decoder_layers
        else "named",
        "form": architecture,
        **({"weights": "random"} if width_and_vocab.random_weights else {}),
        **{
            f"teacher_{name}": teacher_widths[name]
            for name in teacher_widths
            if teacher_widths[name] != student_widths.get(name)
        },
    }
    return _StudentPlan(width_and_vocab, kept_layers, architecture, provenance, summary)


def _write_student(source_model: _SourceModel, plan: _StudentPlan, output: Path) -> StudentSummary:
    """Write the student's folder; return its agreement with the teacher, if there are texts."""
    has_head = model_io.has_classification_head(source_model.folder)
    narrowed_model, tokenizer = width_and_vocab_pruning.apply_width_and_vocab(
        plan.width_and_vocab,
        source_model.model,
        source_model.tokenizer,
        source_model.unpadded_batches,
        has_trained_head=has_head,
    )
    student = layer_pruning.prune_layers(narrowed_model, plan.kept_layers, plan.architecture)
    adopt_tokenizer_pad_token(student, tokenizer)
    student.config.kd = dict(plan.provenance)
    model_io.save_model(student, tokenizer, output)
    if source_model.texts is None or not has_head:
        return {}
    models = ((source_model.model, source_model.tokenizer), (student, tokenizer))
    predictions = [
        predict_logits(
            model,
            create_collator(model, model_tokenizer),
            source_model.tokenized_sample(model_tokenizer),
            _BATCH_SIZE,
        ).argmax(-1)
        for model, model_tokenizer in models
    ]
    return {
        "agreement": float(np.mean(predictions[0] == predictions[1])),
        "texts": len(predictions[0]),
    }


def describe_kept_layers(
    stacks: Sequence[LayerStack],
    kept_layers: Sequence[LayerIndices],
    architecture: str,
    strategy: str = "spaced",
) -> str:
    """Describe in a sentence which layers a student keeps, and how they were chosen."""
    if stacks[0].shared:
        return (
            f"It goes {len(kept_layers[0])} times through the layer that its teacher goes through "
            f"{stacks[0].depth} times."
        )
    counts = [f"{s.part}'s {s.depth}" if s.part else f"{s.depth}" for s in stacks]
    which = [
        f"{', '.join(map(str, kept))} of {whose} {count}"
        for kept, whose, count in zip(kept_layers, ("the teacher's", "its"), counts, strict=False)
    ]
    how = [""]
    if strategy == "importance":
        how.append("those that it does worst without")
    if architecture == "distilbert":
        how.append("in DistilBERT's form, without token-type embeddings and pooler")
    return f"It starts from layers {' and '.join(which)} (counted from 0){', '.join(how)}."
