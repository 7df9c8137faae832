"""Padding that leaves a model's answer as it is for each text alone.

A text's logits may not depend on the texts that share its batch. Whether they do is decided by
three settings that a model's folder often gets wrong: which token fills the gaps, on which side
they are, and whether the model's own `pad_token_id` is that token (decoders find a text's last
token by it). `align_padding` sets all three, and refuses a model for which no choice works.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdcli.data.tokenization.collator import PaddingCollator
from kdcli.data.tokenization.tokenize import encoding_to_rows, tokenize_texts
from kdcli.errors import KdError, ModelError, as_resource_error, first_message_line
from kdcli.models.layer_stacks import get_text_config
from kdcli.models.sequence_length import get_position_offset
from kdcli.recipe.data import TruncationMode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Relative to the largest logit. Kernels add in another order for another shape, which moves
# float32 logits by about 1e-6; a wrong padding moves them by far more.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_NUM_SAMPLE_TEXTS = 4
# Architectures that mix tokens without regard to the attention mask: by convolution (CANINE,
# ConvBERT, Nystromformer, YOSO), pooling (Funnel), Fourier transform (FNet), the next token's
# embedding (MobileBERT), or by choosing among chunks or tokens of which some are padding. T5Gemma's
# head reads one token further where there is padding than where there is none.
_PADDING_SENSITIVE_MODEL_TYPES = {
    "axk2",
    "canine",
    "convbert",
    "fnet",
    "funnel",
    "mobilebert",
    "nystromformer",
    "reformer",
    "t5gemma",
    "t5gemma2",
    "yoso",
}
# Texts for a model that comes without any.
_SAMPLE_TEXTS = (
    "Hello.",
    "This is a sentence of a few words.",
    "This one is longer than those before it, so that a batch of all three needs padding.",
)


def get_forward_argument_names(model: "PreTrainedModel") -> tuple[str, ...]:
    """The names that the model's `forward` takes."""
    return tuple(inspect.signature(model.forward).parameters)


def create_collator(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> PaddingCollator:
    """A collator that gives the model what it takes and pads with the model's own token."""
    return PaddingCollator(
        tokenizer, get_forward_argument_names(model), pad_token_id=get_pad_token_id(model)
    )


def align_padding(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    model_name: str,
    texts: Sequence[Sequence[str]] = (_SAMPLE_TEXTS,),
    *,
    max_length: int,
    truncation: TruncationMode | None = None,
) -> None:
    """Make a padded batch give the logits that each of its texts gets alone.

    Sets the configuration's `pad_token_id` where it names no token, and the tokenizer's
    `padding_side`; both are saved with the model. What the model says of a text alone stays as
    it is.

    Args:
        model: A classifier, in evaluation mode.
        tokenizer: Its own.
        model_name: What to call the model.
        texts: Some of those that it will read: a column, or two of pairs.
        max_length: Tokens that it sees of a text.
        truncation: Which, of a longer one; see `kdcli.data.encode.read`.

    Raises:
        ModelError: It can't read the texts, or reads them differently in a batch whatever fills
            the gaps and on whichever side.
    """
    rows = _sample_rows_of_varied_length(tokenizer, texts, max_length, truncation, model_name)
    try:
        alone = torch.cat([_compute_logits(model, tokenizer, [row]) for row in rows])
        if needs_equal_lengths(model):
            return
        off = float("inf")
        for _ in _try_padding_options(model, tokenizer):
            off = min(
                off,
                _relative_logit_difference(_compute_logits_or_none(model, tokenizer, rows), alone),
            )
            if off <= _TOLERANCE[model.dtype]:
                return
    except KdError:
        raise
    except Exception as error:
        lengths = [len(row["input_ids"]) for row in rows]
        fault = ModelError(
            f"{model_name} can't read texts of {min(lengths)} to {max(lengths)} tokens: "
            f"{type(error).__name__}: {first_message_line(error)}",
            "Where they are too long for it, give data.max_length; otherwise take another model.",
        )
        raise as_resource_error(error) or fault from error
    raise ModelError(
        f"{model_name} gives a text other logits in a padded batch than alone "
        f"({100 * off:.2g} % of the largest), whichever side is padded and with whichever token.",
        "Take another model, or one of its kind that reads the attention mask.",
    )


def adopt_tokenizer_pad_token(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Make a model that is yet to learn take the tokenizer's padding for its own.

    Then its batches are right wherever it is loaded, whatever the configuration that it was made
    from said. Encoder-decoders, and models that number positions from the padding token on, keep
    theirs: their weights depend on it.
    """
    if not (model.config.is_encoder_decoder or get_position_offset(model)):
        _set_pad_token(model, tokenizer, tokenizer.pad_token_id)


def needs_equal_lengths(model: "PreTrainedModel") -> bool:
    """Whether padding changes a model's logits by its design, so that a batch may have none."""
    return (
        model.config.model_type in _PADDING_SENSITIVE_MODEL_TYPES
        or _uses_block_sparse_attention(model.config)
    )


def padding_warning(model: "PreTrainedModel", model_name: str) -> str | None:
    """A sentence for who uses a model whose logits padding changes; None for other models."""
    if not needs_equal_lengths(model):
        return None
    return (
        f"{model_name} is a {model.config.model_type}, which reads padding as if it were text: kd "
        "measures it without any. Elsewhere, give it one text at a time."
    )


def keep_block_sparse_attention(model: "PreTrainedModel") -> None:
    """Give a BigBird its sparse attention back before each batch.

    It turns to full attention at the first text that is too short for blocks, and stays so for
    all that follow: its answers would depend on the order of the texts.
    """
    if _uses_block_sparse_attention(model.config):
        base = model.base_model
        module = base if hasattr(base, "set_attention_type") else base.encoder
        module.register_forward_pre_hook(lambda it, inputs: it.set_attention_type("block_sparse"))


def _uses_block_sparse_attention(config: Any) -> bool:
    # BigBird's last block of tokens sees the whole text, and it would be padding (Zaheer et al.
    # 2020, arXiv:2007.14062, section 2).
    return getattr(config, "attention_type", None) == "block_sparse"


def get_pad_token_id(model: "PreTrainedModel") -> int | None:
    """The token that the model's configuration takes for padding; None where it names none."""
    found = getattr(get_text_config(model.config), "pad_token_id", None)
    count = getattr(get_text_config(model.config), "vocab_size", None)
    valid = isinstance(found, int) and found >= 0 and (count is None or found < count)
    return found if valid else None


def _try_padding_options(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[None]:
    """Set one way to pad after the other; the tokenizer's own side comes first."""
    ids: Sequence[int | None] = [None]
    if get_pad_token_id(model) is None:
        # No text may end with it: a decoder would take the token before for the last one.
        ids = list(dict.fromkeys([tokenizer.pad_token_id, *tokenizer.all_special_ids]))
    side = tokenizer.padding_side
    sides = (side, "left" if side == "right" else "right")
    for token in ids:
        if token is not None:
            _set_pad_token(model, tokenizer, token)
        for side in sides:
            tokenizer.padding_side = side
            # Only what it was made with is saved.
            tokenizer.init_kwargs["padding_side"] = side
            yield


def _set_pad_token(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", token: int
) -> None:
    model.config.pad_token_id = get_text_config(model.config).pad_token_id = token
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(token)


def _sample_rows_of_varied_length(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[Sequence[str]],
    max_length: int,
    truncation: TruncationMode | None,
    model_name: str,
) -> list[dict[str, Any]]:
    """A few rows, from the shortest to the longest, and half of a text besides."""
    rows = [
        r
        for r in encoding_to_rows(tokenize_texts(tokenizer, texts, max_length, truncation))
        if r["input_ids"]
    ]
    if not rows:
        raise ModelError(
            f"The tokenizer of {model_name} gives no tokens for any text.",
            "Its files may be another architecture's: save the tokenizer anew.",
        )
    rows.sort(key=lambda row: len(row["input_ids"]))
    chosen = np.unique(np.linspace(0, len(rows) - 1, _NUM_SAMPLE_TEXTS).round().astype(int))
    longest = max(range(len(texts[0])), key=lambda i: len(texts[0][i]))
    words = texts[0][longest].split()
    # Where all texts are of one length, nothing would be padded.
    half = " ".join(words[: max(1, len(words) // 2)]) or texts[0][longest]
    others = [[column[longest]] for column in texts[1:]]
    halved = encoding_to_rows(tokenize_texts(tokenizer, [[half], *others], max_length, truncation))[
        :1
    ]
    return [*(rows[i] for i in chosen), *(row for row in halved if row["input_ids"])]


def _compute_logits_or_none(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict[str, Any]]
) -> Tensor | None:
    """None where the model can't read this batch."""
    try:
        return _compute_logits(model, tokenizer, rows)
    except (ValueError, IndexError, RuntimeError) as error:
        if machine := as_resource_error(error):
            raise machine from error
        return None


def _compute_logits(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict[str, Any]]
) -> Tensor:
    batch = create_collator(model, tokenizer)(rows)
    with torch.inference_mode():
        logits: Tensor = model(**{name: t.to(model.device) for name, t in batch.items()}).logits
    return logits


def _relative_logit_difference(batch_logits: Tensor | None, single_logits: Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    if batch_logits is None or batch_logits.shape != single_logits.shape:
        return float("inf")
    if not single_logits.isfinite().all():
        return 0.0  # weights that are no numbers are refused for that
    return float(
        (batch_logits - single_logits).abs().max() / single_logits.abs().max().clamp(min=1e-30)
    )
