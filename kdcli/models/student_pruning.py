"""Plan and prune a student: which layers, how wide, which vocabulary, which architecture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.tokenization.batch_sampler import length_sorted_batches
from kdcli.data.tokenization.tokenize import token_lengths, tokenize_dataset
from kdcli.models import (
    layer_importance,
    layer_pruning,
    layer_selection,
    layer_stacks,
    model_io,
    tensor_slicing,
    width_and_vocab_pruning,
    width_pruning_plan,
)
from kdcli.models.layer_stacks import LayerIndices, LayerStack
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.model_complexity import count_parameters_and_flops
from kdcli.models.padding_invariance import adopt_tokenizer_pad_token, create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.models.width_and_vocab_pruning import WidthAndVocabPlan
from kdcli.recipe.student import StudentConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE_TEXTS = 256
_BATCH_SIZE = 32

StudentSummary = dict[str, Any]


@dataclass(frozen=True)
class SourceModel:
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
class StudentPruningPlan:
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


def build_pruned_meta_model(
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


def plan_student_pruning(
    source_model: SourceModel,
    student_config: StudentConfig,
    width_and_vocab: WidthAndVocabPlan,
    advance: Callable[[int, int], None],
) -> StudentPruningPlan:
    """Plan the pruning of a student: choose its layers, and count its size and speed-up.

    Args:
        source_model: The model to prune.
        student_config: The recipe's `student`.
        width_and_vocab: Plan for width and vocabulary.
        advance: Called with the trials done and their number, where layers are chosen by trial.

    Raises:
        ModelError: The model has fewer layers.
    """
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
    architecture, student = build_pruned_meta_model(
        student_config, model, width_and_vocab, kept_layers
    )
    teacher_size, student_size = (
        count_parameters_and_flops(model),
        count_parameters_and_flops(student),
    )
    layers_by_part = {f"{s.part}_layers" if s.part == "decoder" else "layers": list(k)
            for s, k in zip(stacks, kept_layers, strict=True)}  # fmt: skip
    teacher_widths, student_widths = (
        width_pruning_plan.get_model_widths(model.config),
        width_pruning_plan.get_model_widths(student.config),
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
    return StudentPruningPlan(width_and_vocab, kept_layers, architecture, provenance, summary)


def write_pruned_student(
    source_model: SourceModel, plan: StudentPruningPlan, output: Path
) -> StudentSummary:
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
