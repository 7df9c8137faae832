"""The longest text that a model can read, in tokens."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdcli.models.layer_stacks import get_text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Module names of position embeddings in transformers' architectures.
_POSITION_TABLE_NAMES = {
    "position_embeddings",
    "embed_positions",
    "position_embed",
    "pos_emb",
    "wpe",
}
_MAX_POSITION_KEYS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")
# Stands for no limit, for which tokenizers have 1e30.
NO_LENGTH_LIMIT = 1_000_000


def get_max_length(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", requested: int | None
) -> int:
    """Get the number of tokens to which texts are truncated for a model.

    Args:
        model: May be on the meta device.
        tokenizer: The model's; its limit may be lower.
        requested: A lower limit set by the user.
    """
    limits = [NO_LENGTH_LIMIT, tokenizer.model_max_length, *_model_length_limits(model)]
    return int(min(limits if requested is None else [*limits, requested]))


def get_position_offset(model: "PreTrainedModel") -> int:
    """Count the rows of the position embeddings before the first token's; 0 without a table.

    RoBERTa-like models number positions from the padding token's id on; BART and OPT reserve
    `offset` rows.
    """
    return max((before for _, before in _position_tables(model)), default=0)


def _model_length_limits(model: "PreTrainedModel") -> list[int]:
    config = get_text_config(model.config)
    stated = [getattr(config, name, None) for name in _MAX_POSITION_KEYS]
    found = [number for number in stated if isinstance(number, int) and number > 0]
    return [*found, *(rows - before for rows, before in _position_tables(model))]


def _position_tables(model: "PreTrainedModel") -> Iterator[tuple[int, int]]:
    """Yield the rows of each position table, and the rows before the first token's."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        # I-BERT's tables are no torch.nn.Embedding.
        if (
            name.rpartition(".")[2] in _POSITION_TABLE_NAMES
            and weight is not None
            and weight.dim() == 2
        ):
            padding = getattr(module, "padding_idx", None)
            after = 0 if padding is None else padding + 1
            yield len(weight), max(getattr(module, "offset", 0), after)
