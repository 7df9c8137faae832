"""What goes of a model beside layers: heads, neurons, pieces of its vocabulary, all its weights."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcli.errors import UsageError
from kdcli.models import prunable_units, vocab_trimming, width_pruning
from kdcli.recipe.student import StudentConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Pieces to keep where the recipe doesn't say how many; see docs/guides/narrower.md.
DEFAULT_VOCAB_SIZE = 16_000
_UNIT_NAMES = {"heads": "attention heads", "ffn": "feed-forward neurons"}


@dataclass(frozen=True)
class WidthAndVocabPlan:
    """What is to go.

    Attributes:
        config: Of the model that is left, with all its layers.
        pruned_units: Heads and neurons that go.
        kept_token_ids: Token ids that stay; None for all.
        vocab_texts: That the vocabulary is trimmed to.
        random_weights: Whether the weights are drawn anew.
    """

    config: "PretrainedConfig"
    pruned_units: tuple[prunable_units.PrunableUnits, ...] = ()
    kept_token_ids: Sequence[int] | None = None
    vocab_texts: Sequence[str] = ()
    random_weights: bool = False


def plan_width_and_vocab(
    student_config: StudentConfig,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    vocab_texts: Sequence[str] | None,
) -> WidthAndVocabPlan:
    """What has to go of a model for a student of these widths.

    Args:
        student_config: Says the widths.
        model: Its weights aren't looked at, and needn't be there.
        tokenizer: The model's.
        vocab_texts: That the vocabulary is trimmed to; None where there are none.

    Raises:
        ModelError: The model is smaller already, or its architecture can't say so.
        UsageError: Texts are needed, and there are none.
    """
    config, kept = model.config, None
    units: tuple[prunable_units.PrunableUnits, ...] = ()
    if student_config.hidden is not None:
        config = prunable_units.build_scratch_config(
            config, student_config.hidden, heads=student_config.heads, ffn=student_config.ffn
        )
    else:
        units = prunable_units.plan_width_pruning(
            model, heads=student_config.heads, ffn=student_config.ffn
        )
        config = prunable_units.build_narrowed_config(config, units)
    if student_config.requires_texts and vocab_texts is None:
        raise UsageError(
            "What is to be kept is measured, and that needs texts.", "Name them: --data DATASET."
        )
    if student_config.trim_vocab:
        size = student_config.trim_vocab
        if size is True:
            size = min(DEFAULT_VOCAB_SIZE, len(tokenizer))
        kept = vocab_trimming.select_token_ids(tokenizer, config, vocab_texts or (), size)
        config = vocab_trimming.build_trimmed_config(config, kept)
    return WidthAndVocabPlan(
        config, units, kept, vocab_texts or (), random_weights=student_config.hidden is not None
    )


def apply_width_and_vocab(
    plan: WidthAndVocabPlan,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    make_batches: "Callable[[PreTrainedModel, PreTrainedTokenizerBase], Iterable[Mapping[str, Tensor]]]",
    *,
    has_trained_head: bool,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The model that is left, and its tokenizer.

    Args:
        plan: Of `plan`.
        model: With its weights.
        tokenizer: The model's.
        make_batches: Makes inputs to measure on.
        has_trained_head: Whether the model's head was trained.

    Raises:
        ModelError: What is left doesn't compute what it should.
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
    """Sentences on what is left of the model."""
    said = []
    if plan.pruned_units:
        parts = [
            f"{u.num_kept:,} of {u.num_units:,} {_UNIT_NAMES[u.recipe_key]}"
            for u in plan.pruned_units
        ]
        said.append(f"Each layer keeps {' and '.join(parts)}, those that move its outputs most.")
    if plan.kept_token_ids is not None:
        said.append(f"{len(plan.kept_token_ids):,} pieces are left of the vocabulary.")
    return said
