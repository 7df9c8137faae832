"""How many tokens of a text a model can number."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdcli.models.layer_stacks import get_text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What transformers' architectures call the table of their tokens' positions.
_POSITION_TABLE_NAMES = {
    "position_embeddings",
    "embed_positions",
    "position_embed",
    "pos_emb",
    "wpe",
}
_MAX_POSITION_KEYS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")
# Tokenizers of models without such a table have 1e30 for their limit, which none can count to.
NO_LENGTH_LIMIT = 1_000_000


def get_max_length(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", requested: int | None
) -> int:
    """The number of tokens of a text that a model sees.

    Args:
        model: Its weights aren't read, and needn't be there.
        tokenizer: Its own, which may have a lower limit.
        requested: A lower limit that the user sets.
    """
    limits = [NO_LENGTH_LIMIT, tokenizer.model_max_length, *_model_length_limits(model)]
    return int(min(limits if requested is None else [*limits, requested]))


def get_position_offset(model: "PreTrainedModel") -> int:
    """The rows of the position table that come before the first token's; 0 without a table.

    RoBERTa and its kin begin to count after the padding token's id; BART and OPT keep `offset`
    rows.
    """
    return max((before for _, before in _position_tables(model)), default=0)


def _model_length_limits(model: "PreTrainedModel") -> list[int]:
    config = get_text_config(model.config)
    stated = [getattr(config, name, None) for name in _MAX_POSITION_KEYS]
    found = [number for number in stated if isinstance(number, int) and number > 0]
    return [*found, *(rows - before for rows, before in _position_tables(model))]


def _position_tables(model: "PreTrainedModel") -> Iterator[tuple[int, int]]:
    """Rows of each table of positions, and how many of them come before the first token's."""
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
