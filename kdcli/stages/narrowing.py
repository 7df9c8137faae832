"""What goes of a model beside layers: heads, neurons, pieces of its vocabulary, all its weights."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcli.errors import UsageError
from kdcli.models import narrow, vocabulary, width
from kdcli.recipe.student import StudentSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Pieces to keep where the recipe doesn't say how many; see docs/guides/narrower.md.
PIECES = 16_000
_NAMES = {"heads": "attention heads", "ffn": "feed-forward neurons"}


@dataclass(frozen=True)
class Narrowing:
    """What is to go.

    Attributes:
        config: Of the model that is left, with all its layers.
        units: Heads and neurons that go.
        kept: Token ids that stay; None for all.
        texts: That the vocabulary is trimmed to.
        fresh: Whether the weights are drawn anew.
    """

    config: "PretrainedConfig"
    units: tuple[width.Units, ...] = ()
    kept: Sequence[int] | None = None
    texts: Sequence[str] = ()
    fresh: bool = False


def plan(
    spec: StudentSpec,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str] | None,
) -> Narrowing:
    """What has to go of a model for a student of these widths.

    Args:
        spec: Says the widths.
        model: Its weights aren't looked at, and needn't be there.
        tokenizer: The model's.
        texts: That the vocabulary is trimmed to; None where there are none.

    Raises:
        ModelError: The model is smaller already, or its architecture can't say so.
        UsageError: Texts are needed, and there are none.
    """
    config, kept = model.config, None
    units: tuple[width.Units, ...] = ()
    if spec.hidden is not None:
        config = width.fresh(config, spec.hidden, heads=spec.heads, ffn=spec.ffn)
    else:
        units = width.plan(model, heads=spec.heads, ffn=spec.ffn)
        config = width.config_for(config, units)
    if spec.reads_texts and texts is None:
        raise UsageError(
            "What is to be kept is measured, and that needs texts.", "Name them: --data DATASET."
        )
    if spec.trim_vocab:
        size = spec.trim_vocab
        if size is True:
            size = min(PIECES, len(tokenizer))
        kept = vocabulary.keep(tokenizer, config, texts or (), size)
        config = vocabulary.config_for(config, kept)
    return Narrowing(config, units, kept, texts or (), fresh=spec.hidden is not None)


def apply(
    narrowing: Narrowing,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    batches: "Callable[[PreTrainedModel, PreTrainedTokenizerBase], Iterable[Mapping[str, Tensor]]]",
    *,
    head: bool,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The model that is left, and its tokenizer.

    Args:
        narrowing: Of `plan`.
        model: With its weights.
        tokenizer: The model's.
        batches: Makes inputs to measure on.
        head: Whether the model's head was trained.

    Raises:
        ModelError: What is left doesn't compute what it should.
    """
    if narrowing.kept is not None:
        model, tokenizer = vocabulary.trim(model, tokenizer, narrowing.texts, narrowing.kept)
    if narrowing.fresh:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_config(narrowing.config).eval(), tokenizer
    if narrowing.units:
        inputs = batches(model, tokenizer)
        model = narrow.narrow(model, narrowing.units, inputs, head=head)
    return model, tokenizer


def describe(narrowing: Narrowing) -> list[str]:
    """Sentences on what is left of the model."""
    said = []
    if narrowing.units:
        parts = [f"{u.after:,} of {u.before:,} {_NAMES[u.key]}" for u in narrowing.units]
        said.append(f"Each layer keeps {' and '.join(parts)}, those that move its outputs most.")
    if narrowing.kept is not None:
        said.append(f"{len(narrowing.kept):,} pieces are left of the vocabulary.")
    return said
