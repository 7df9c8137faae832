"""Pad batches so that each text gets the logits that it gets alone.

Three settings decide whether a text's logits depend on its batch, and model folders often get them
wrong: the padding token, the padding side, and the model's own `pad_token_id`, by which decoders
find a text's last token. `choose_invariant_padding` sets all three, and refuses a model for which
no choice works.
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

# Relative to the largest logit. Kernels sum in another order for another shape, which changes
# float32 logits by about 1e-6; wrong padding changes them far more.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_NUM_SAMPLE_TEXTS = 4
# Architectures that mix tokens regardless of the attention mask: by convolution (CANINE,
# ConvBERT, Nystromformer, YOSO), pooling (Funnel), Fourier transform (FNet), the next token's
# embedding (MobileBERT), or by a choice among chunks or tokens that include padding. T5Gemma's head
# reads one token further with padding than without.
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
# Sample texts for a model without data.
_SAMPLE_TEXTS = (
    "Hello.",
    "This is a sentence of a few words.",
    "This one is longer than those before it, so that a batch of all three needs padding.",
)


def get_forward_argument_names(model: "PreTrainedModel") -> tuple[str, ...]:
    """Get the argument names of the model's `forward`."""
    return tuple(inspect.signature(model.forward).parameters)


def create_collator(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> PaddingCollator:
    """Create a collator of the model's inputs that pads with the model's own token."""
    return PaddingCollator(
        tokenizer, get_forward_argument_names(model), pad_token_id=get_pad_token_id(model)
    )


def choose_invariant_padding(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    model_name: str,
    texts: Sequence[Sequence[str]] = (_SAMPLE_TEXTS,),
    *,
    max_length: int,
    truncation: TruncationMode | None = None,
) -> None:
    """Choose a padding with which a batch gives each text the logits that it gets alone.

    Sets the configuration's `pad_token_id` if it has none, and the tokenizer's `padding_side`; both
    are saved with the model. The logits of a text alone don't change.

    Args:
        model: A classifier, in evaluation mode.
        tokenizer: The model's.
        model_name: Name of the model in messages.
        texts: A sample of the data: one column, or two of text pairs.
        max_length: Number of tokens to which texts are truncated.
        truncation: The truncated end; see `kdcli.data.tokenization.tokenize.tokenize_texts`.

    Raises:
        ModelError: The model can't read the texts, or no padding token and side give the same
            logits as without padding.
    """
    rows = _sample_rows_of_varied_length(tokenizer, texts, max_length, truncation, model_name)
    try:
        alone = torch.cat([_compute_logits(model, tokenizer, [row]) for row in rows])
        if needs_equal_lengths(model):
            return
        error = float("inf")
        for _ in _try_padding_options(model, tokenizer):
            error = min(
                error,
                _relative_logit_difference(_compute_logits_or_none(model, tokenizer, rows), alone),
            )
            if error <= _TOLERANCE[model.dtype]:
                return
    except KdError:
        raise
    except Exception as exception:
        lengths = [len(row["input_ids"]) for row in rows]
        fault = ModelError(
            f"{model_name} can't read texts of {min(lengths)} to {max(lengths)} tokens: "
            f"{type(exception).__name__}: {first_message_line(exception)}",
            "If they are too long for it, set data.max_length; otherwise use another model.",
        )
        raise as_resource_error(exception) or fault from exception
    raise ModelError(
        f"{model_name} gives a text other logits in a padded batch than alone "
        f"({100 * error:.2g} % of the largest), for both padding sides and every padding token.",
        "Use another model, or an architecture that reads the attention mask.",
    )


def adopt_tokenizer_pad_token(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Set an untrained model's padding token to the tokenizer's.

    Its batches are then padded correctly wherever it is loaded. Encoder-decoders, and models that
    number positions from the padding token on, keep theirs, because their weights depend on it.
    """
    if not (model.config.is_encoder_decoder or get_position_offset(model)):
        _set_pad_token(model, tokenizer, tokenizer.pad_token_id)


def needs_equal_lengths(model: "PreTrainedModel") -> bool:
    """Return whether padding changes a model's logits by design, so that batches must have none."""
    # The head of kd on an encoder has the encoder's configuration within its own.
    config = get_text_config(model.config)
    return (
        model.config.model_type in _PADDING_SENSITIVE_MODEL_TYPES
        or config.model_type in _PADDING_SENSITIVE_MODEL_TYPES
        or _uses_block_sparse_attention(config)
    )


def padding_sensitivity_warning(model: "PreTrainedModel", model_name: str) -> str | None:
    """Write a warning for a model whose logits change with padding; None for other models."""
    if not needs_equal_lengths(model):
        return None
    return (
        f"{model_name} is a {model.config.model_type}, which reads padding as text: kd runs it "
        "without padding. Elsewhere, run it on one text at a time."
    )


def keep_block_sparse_attention(model: "PreTrainedModel") -> None:
    """Restore a BigBird's sparse attention before each batch.

    BigBird switches to full attention at the first text that is too short for blocks, and keeps it
    for all later ones, so that its logits would depend on the order of the texts.
    """
    if _uses_block_sparse_attention(get_text_config(model.config)):
        base = model.base_model
        module = base if hasattr(base, "set_attention_type") else base.encoder
        module.register_forward_pre_hook(lambda it, inputs: it.set_attention_type("block_sparse"))


def _uses_block_sparse_attention(config: Any) -> bool:
    # BigBird's last block of tokens attends to the whole text, and would be padding (Zaheer et
    # al. 2020, arXiv:2007.14062, section 2).
    return getattr(config, "attention_type", None) == "block_sparse"


def get_pad_token_id(model: "PreTrainedModel") -> int | None:
    """Get the padding token of the model's configuration; None without a valid one."""
    token = getattr(get_text_config(model.config), "pad_token_id", None)
    vocab_size = getattr(get_text_config(model.config), "vocab_size", None)
    valid = isinstance(token, int) and token >= 0 and (vocab_size is None or token < vocab_size)
    return token if valid else None


def _try_padding_options(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[None]:
    """Set each padding token and side in turn; the tokenizer's own side comes first."""
    ids: Sequence[int | None] = [None]
    if get_pad_token_id(model) is None:
        # A token that ends texts fails: a decoder would read the token before it.
        ids = list(dict.fromkeys([tokenizer.pad_token_id, *tokenizer.all_special_ids]))
    side = tokenizer.padding_side
    sides = (side, "left" if side == "right" else "right")
    for token in ids:
        if token is not None:
            _set_pad_token(model, tokenizer, token)
        for side in sides:
            tokenizer.padding_side = side
            # save_pretrained writes the init arguments only.
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
    """Tokenize a few texts, from the shortest to the longest, and half of the longest."""
    rows = [
        r
        for r in encoding_to_rows(tokenize_texts(tokenizer, texts, max_length, truncation))
        if r["input_ids"]
    ]
    if not rows:
        raise ModelError(
            f"The tokenizer of {model_name} gives no tokens for any text.",
            "Its files may be of another architecture: save the tokenizer again.",
        )
    rows.sort(key=lambda row: len(row["input_ids"]))
    chosen = np.unique(np.linspace(0, len(rows) - 1, _NUM_SAMPLE_TEXTS).round().astype(int))
    longest = max(range(len(texts[0])), key=lambda i: len(texts[0][i]))
    words = texts[0][longest].split()
    # If all texts had the same length, nothing would be padded.
    half = " ".join(words[: max(1, len(words) // 2)]) or texts[0][longest]
    others = [[column[longest]] for column in texts[1:]]
    halved = encoding_to_rows(tokenize_texts(tokenizer, [[half], *others], max_length, truncation))[
        :1
    ]
    return [*(rows[i] for i in chosen), *(row for row in halved if row["input_ids"])]


def _compute_logits_or_none(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict[str, Any]]
) -> Tensor | None:
    """Compute the logits of a padded batch; None if the model can't read it."""
    try:
        return _compute_logits(model, tokenizer, rows)
    except (ValueError, IndexError, RuntimeError) as error:
        if resource_error := as_resource_error(error):
            raise resource_error from error
        return None


def _compute_logits(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict[str, Any]]
) -> Tensor:
    batch = create_collator(model, tokenizer)(rows)
    with torch.inference_mode():
        logits: Tensor = model(**{name: t.to(model.device) for name, t in batch.items()}).logits
    return logits


def _relative_logit_difference(batch_logits: Tensor | None, single_logits: Tensor) -> float:
    """Compute the largest difference, relative to the largest logit."""
    if batch_logits is None or batch_logits.shape != single_logits.shape:
        return float("inf")
    if not single_logits.isfinite().all():
        return 0.0  # weights that are not finite are refused elsewhere
    return float(
        (batch_logits - single_logits).abs().max() / single_logits.abs().max().clamp(min=1e-30)
    )
