"""Plan and apply the pruning of width (heads and neurons) and vocabulary."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kdcli.errors import UsageError
from kdcli.models import vocab_trimming, width_pruning, width_pruning_plan
from kdcli.recipe.student import StudentConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Tokens to keep for `trim_vocab: true`; see docs/guides/narrower.md.
DEFAULT_VOCAB_SIZE = 16_000
MakeBatches: TypeAlias = (
    "Callable[[PreTrainedModel, PreTrainedTokenizerBase], Iterable[Mapping[str, Tensor]]]"
)
_UNIT_NAMES = {
    "num_attention_heads": "attention heads",
    "intermediate_size": "feed-forward neurons",
}


@dataclass(frozen=True)
class WidthAndVocabPlan:
    """The parts of a model to prune, apart from layers.

    Attributes:
        config: Configuration of the pruned model, with all layers.
        pruned_units: The heads and neurons to prune.
        kept_token_ids: The token ids to keep; None for all.
        vocab_texts: The texts whose tokens must not change.
        random_weights: Whether the student starts from random weights.
    """

    config: "PretrainedConfig"
    pruned_units: tuple[width_pruning_plan.PrunableUnits, ...] = ()
    kept_token_ids: Sequence[int] | None = None
    vocab_texts: Sequence[str] = ()
    random_weights: bool = False


def plan_width_and_vocab(
    student_config: StudentConfig,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    vocab_texts: Sequence[str] | None,
) -> WidthAndVocabPlan:
    """Plan the pruning of a model to the widths and the vocabulary of `student_config`.

    Args:
        student_config: The recipe's `student`.
        model: A classifier; may be on the meta device.
        tokenizer: The model's.
        vocab_texts: The texts whose tokens must not change; None without data.

    Raises:
        ModelError: The model is smaller already, or its architecture can't be pruned so.
        UsageError: The plan needs texts, and there are none.
    """
    config, kept = model.config, None
    units: tuple[width_pruning_plan.PrunableUnits, ...] = ()
    if student_config.hidden_size is not None:
        config = width_pruning_plan.build_scratch_config(
            config,
            student_config.hidden_size,
            heads=student_config.num_attention_heads,
            ffn=student_config.intermediate_size,
        )
    else:
        units = width_pruning_plan.plan_width_pruning(
            model, heads=student_config.num_attention_heads, ffn=student_config.intermediate_size
        )
        config = width_pruning_plan.build_narrowed_config(config, units)
    if student_config.requires_texts and vocab_texts is None:
        raise UsageError(
            "Selecting what to keep by measurement needs texts.", "Give them: --data DATASET."
        )
    if student_config.trim_vocab:
        size = student_config.trim_vocab
        if size is True:
            size = min(DEFAULT_VOCAB_SIZE, len(tokenizer))
        kept = vocab_trimming.select_token_ids(tokenizer, config, vocab_texts or (), size)
        config = vocab_trimming.build_trimmed_config(config, kept)
    return WidthAndVocabPlan(
        config,
        units,
        kept,
        vocab_texts or (),
        random_weights=student_config.hidden_size is not None,
    )


def apply_width_and_vocab(
    plan: WidthAndVocabPlan,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    make_batches: MakeBatches,
    *,
    has_trained_head: bool,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Prune a model and its tokenizer.

    Args:
        plan: The plan of `plan_width_and_vocab`.
        model: The model, with its weights.
        tokenizer: The model's.
        make_batches: Makes inputs to measure the importance of units on.
        has_trained_head: Whether the model's head was trained.

    Raises:
        ModelError: The pruned model fails its check.
    """
    if plan.kept_token_ids is not None:
        model, tokenizer = vocab_trimming.trim_vocabulary(
            model, tokenizer, plan.vocab_texts, plan.kept_token_ids
        )
    if plan.random_weights:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_config(plan.config).eval(), tokenizer
    if plan.pruned_units:
        inputs = make_batches(model, tokenizer)
        model = width_pruning.prune_width(
            model, plan.pruned_units, inputs, use_logits=has_trained_head
        )
    return model, tokenizer


def describe_width_and_vocab(plan: WidthAndVocabPlan) -> list[str]:
    """Describe the pruned model, in sentences."""
    sentences = []
    if plan.pruned_units:
        parts = [
            f"{u.num_kept:,} of {u.num_units:,} {_UNIT_NAMES[u.recipe_key]}"
            for u in plan.pruned_units
        ]
        sentences.append(
            f"Each layer keeps {' and '.join(parts)}, those that matter most for its outputs."
        )
    if plan.kept_token_ids is not None:
        sentences.append(f"The vocabulary keeps {len(plan.kept_token_ids):,} tokens.")
    return sentences
