"""Trim a vocabulary to the tokens of given texts, and to those that can spell any text.

In a small student most parameters are embeddings of tokens that its texts never use. The trimmed
vocabulary keeps the tokens of the texts, special and added tokens, every letter (a single
character, in WordPiece also as a continuation; a byte), and of the rest the first in the
vocabulary's order, which is that of frequency or of the merges. The tokenization of the texts
doesn't change: each of the three algorithms picks the best of its candidates, and that one is kept,
be it the longest token (WordPiece), the earliest merge (BPE, Sennrich et al. 2016,
arXiv:1508.07909) or the path of the highest score (Unigram, Kudo 2018, arXiv:1804.10959). Other
texts may be split into smaller tokens, but no known word becomes unknown.
"""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdcli.errors import ModelError
from kdcli.models import model_io, tensor_slicing
from kdcli.models.layer_stacks import get_text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_SUPPORTED_ALGORITHMS = ("WordPiece", "BPE", "Unigram")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_UNUSED_TOKEN = re.compile(r"[\[<]unused_?\d+[\]>]")


class TokenizerVocab:
    """The tokens of a fast tokenizer, and how its algorithm combines them.

    Args:
        tokenizer: A fast tokenizer.

    Raises:
        ModelError: The tokenizer is slow, or its algorithm can't spell unknown words.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"student.trim_vocab: the tokenizer ({type(tokenizer).__name__}) is written in "
                "Python, and only the vocabulary of a fast one can be trimmed.",
                "Convert it to a tokenizer.json, or keep the whole vocabulary.",
            )
        self.tokenizer_json: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        model = self.tokenizer_json["model"]
        if model["type"] not in _SUPPORTED_ALGORITHMS:
            raise ModelError(
                f"student.trim_vocab: a {model['type']} vocabulary can't be trimmed, because "
                "it can't spell words that are not in it."
            )
        vocab = model["vocab"]
        self.token_to_id: dict[str, int] = (
            {token: i for i, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
        )
        self.continuation_prefix: str = model.get("continuing_subword_prefix") or ""
        self.end_of_word_suffix: str = model.get("end_of_word_suffix") or ""
        self.merge_ranks = {tuple(pair): rank for rank, pair in enumerate(model.get("merges", ()))}

    def split_into_symbols(self, token: str) -> list[str]:
        """Split a token into the single characters that can spell it."""
        inside = bool(self.continuation_prefix) and token.startswith(self.continuation_prefix)
        body = token.removeprefix(self.continuation_prefix) if inside else token
        ends = bool(self.end_of_word_suffix) and body.endswith(self.end_of_word_suffix)
        symbols = list(body.removesuffix(self.end_of_word_suffix) if ends else body)
        symbols = [
            self.continuation_prefix + s if inside or i else s for i, s in enumerate(symbols)
        ]
        if ends and symbols:
            symbols[-1] += self.end_of_word_suffix
        return symbols

    def tokens_to_build(self, token: str) -> set[str]:
        """Get a token, and in BPE the intermediate tokens from which it is merged."""
        tokens, symbols = {token}, self.split_into_symbols(token)
        while ranked := [
            (self.merge_ranks[pair], i)
            for i, pair in enumerate(pairwise(symbols))
            if pair in self.merge_ranks
        ]:
            i = min(ranked)[1]
            symbols[i : i + 2] = [self.merge_pair((symbols[i], symbols[i + 1]))]
            tokens.add(symbols[i])
        # A token that no merges lead to is found by a lookup of the whole word, or never.
        return tokens if symbols == [token] else {token}

    def merge_pair(self, pair: tuple[str, str]) -> str:
        """Merge two tokens."""
        return pair[0] + pair[1].removeprefix(self.continuation_prefix)

    def base_tokens(self) -> set[str]:
        """Get the letters, and the tokens that letters can't spell."""
        byte_fallback = self.tokenizer_json["model"].get("byte_fallback")
        return {
            token
            for token in self.token_to_id
            if (letters := self.split_into_symbols(token)) == [token]
            or any(letter not in self.token_to_id for letter in letters)
            or (byte_fallback and _BYTE_TOKEN.fullmatch(token))
        }


def select_token_ids(
    tokenizer: "PreTrainedTokenizerBase",
    config: "PretrainedConfig",
    texts: Sequence[str],
    vocab_size: int | None = None,
) -> list[int]:
    """Select the token ids to keep, in order.

    Args:
        tokenizer: A fast tokenizer.
        config: Configuration of its model; the token ids in it are kept.
        texts: The texts whose tokens must not change.
        vocab_size: Number of tokens to keep; more if texts and letters need more. None keeps only
            what these need.

    Raises:
        ModelError: The tokenizer's vocabulary can't be trimmed, or is smaller.
    """
    vocab = TokenizerVocab(tokenizer)
    token_by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    if vocab_size is not None and vocab_size > len(token_by_id):
        raise ModelError(
            f"student.trim_vocab is {vocab_size:,}, and the tokenizer has {len(token_by_id):,} "
            "tokens."
        )
    ids = {token["id"] for token in vocab.tokenizer_json["added_tokens"]}
    ids |= {*tokenizer.all_special_ids, vocab.tokenizer_json["model"].get("unk_id")}
    ids.update(*_config_token_ids(config).values(), *_tokenize(tokenizer, texts))
    kept = {token_by_id[i] for i in ids if i in token_by_id} | vocab.base_tokens()
    kept.update(*map(vocab.tokens_to_build, kept & vocab.token_to_id.keys()))
    for token in sorted(vocab.token_to_id, key=vocab.token_to_id.__getitem__):
        if vocab_size is None or len(kept) >= vocab_size:
            break
        missing = vocab.tokens_to_build(token) - kept
        if len(kept) + len(missing) <= vocab_size and not _UNUSED_TOKEN.fullmatch(token):
            kept |= missing
    return sorted(i for i, token in token_by_id.items() if token in kept)


def build_trimmed_config(config: "PretrainedConfig", kept_ids: Sequence[int]) -> "PretrainedConfig":
    """Build the configuration of a model with the token ids `kept_ids`, renumbered from 0."""
    new_ids = {old: i for i, old in enumerate(kept_ids)}
    values: dict[str, Any] = {
        name: [new_ids.get(i) for i in ids]
        if isinstance(getattr(get_text_config(config), name), list)
        else new_ids.get(ids[0])
        for name, ids in _config_token_ids(config).items()
    }
    return tensor_slicing.copy_config_with(config, values | {"vocab_size": len(kept_ids)})


def trim_vocabulary(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    kept_ids: Sequence[int],
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Trim a model and its tokenizer to the token ids `kept_ids`.

    Args:
        model: A classifier, in evaluation mode.
        tokenizer: Its fast tokenizer.
        texts: The texts given to `select_token_ids`.
        kept_ids: The ids that `select_token_ids` returned.

    Returns:
        New copies of both, with ids renumbered from 0 in the same order.

    Raises:
        ModelError: The tokens of the texts would change, or the model lacks embeddings.
    """
    rows = torch.tensor(kept_ids)
    smaller_tokenizer = _trim_tokenizer(tokenizer, kept_ids)
    before, after = _tokenize(tokenizer, texts), _tokenize(smaller_tokenizer, texts)
    changed = sum(old != [kept_ids[i] for i in new] for old, new in zip(before, after, strict=True))
    if changed:
        raise ModelError(
            f"student.trim_vocab: with a {type(tokenizer).__name__}, {changed:,} of {len(texts):,} "
            "texts would be split into other tokens than before.",
            "Keep the whole vocabulary.",
        )
    config = build_trimmed_config(model.config, kept_ids)
    resized = tensor_slicing.find_resized_parameters(model, config)
    if any(dimension.old_size <= kept_ids[-1] for dimension in resized.values()):
        raise ModelError(
            "The tokenizer has tokens that the model has no embedding for, such as "
            f"{kept_ids[-1]:,}."
        )
    smaller = tensor_slicing.build_sliced_model(
        model, config, {name: (dimension.dim, rows) for name, dimension in resized.items()}
    )
    return smaller, smaller_tokenizer


def _tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]


def _config_token_ids(config: "PretrainedConfig") -> dict[str, list[int]]:
    """Get the token ids in a configuration, by attribute."""
    attributes = vars(get_text_config(config))
    named = {name: value for name, value in attributes.items() if name.endswith("_token_id")}
    return {
        name: value if isinstance(value, list) else [value]
        for name, value in named.items()
        if value is not None
    }


def _trim_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", kept_ids: Sequence[int]
) -> "PreTrainedTokenizerBase":
    """Trim a tokenizer to the tokens `kept_ids` by editing its tokenizer.json."""
    new_ids = {old: i for i, old in enumerate(kept_ids)}
    vocab = TokenizerVocab(tokenizer)
    content, model = vocab.tokenizer_json, vocab.tokenizer_json["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [model["vocab"][i] for i in kept_ids if i < len(model["vocab"])]
        model["unk_id"] = new_ids.get(model["unk_id"])
    else:
        model["vocab"] = {
            token: new_ids[i] for token, i in vocab.token_to_id.items() if i in new_ids
        }
    if "merges" in model:
        model["merges"] = [
            pair
            for pair in model["merges"]
            if {*pair, vocab.merge_pair(tuple(pair))} <= model["vocab"].keys()
        ]
    for token in content["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    if content["padding"]:
        content["padding"]["pad_id"] = new_ids[content["padding"]["pad_id"]]
    _renumber_post_processor(content["post_processor"], new_ids)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(
            json.dumps(content, ensure_ascii=False), encoding="utf-8"
        )
        return model_io.load_tokenizer(Path(folder))


def _renumber_post_processor(processor: Any, new_ids: Mapping[int, int]) -> None:
    """Renumber the special tokens in a post-processor of any type, in place."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _renumber_post_processor(inner, new_ids)
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new_ids[i] for i in token["ids"]]
    for part in ("sep", "cls"):
        if part in processor:
            processor[part][1] = new_ids[processor[part][1]]
