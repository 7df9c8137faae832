"""A smaller vocabulary: the pieces that the texts need, and those that any text can be spelt with.

In a small student most parameters are the embeddings of pieces that its texts never use. What
stays: the pieces of the texts, special and added tokens, every letter (a single character, in
WordPiece also as a continuation; a byte), and of the rest the first in the vocabulary's order,
which is that of frequency, or of the merges. The texts' own tokens stay what they were: each of
the three algorithms takes the best of its candidates, and that one is still there, be it the
longest piece (WordPiece), the earliest merge (BPE, Sennrich et al. 2016, arXiv:1508.07909) or the
path of the highest score (Unigram, Kudo 2018, arXiv:1804.10959). Other texts may fall into
smaller pieces, but nothing becomes unknown that wasn't.
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
    """A fast tokenizer's pieces, and how its algorithm puts them together.

    Args:
        tokenizer: A fast tokenizer.

    Raises:
        ModelError: It is none, or of an algorithm that can't spell what it has no piece for.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"student.trim_vocab: the tokenizer ({type(tokenizer).__name__}) is written in "
                "Python, and only a fast one's vocabulary can be cut.",
                "Convert it to a tokenizer.json, or leave its vocabulary whole.",
            )
        self.tokenizer_json: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        model = self.tokenizer_json["model"]
        if model["type"] not in _SUPPORTED_ALGORITHMS:
            raise ModelError(
                f"student.trim_vocab: a {model['type']} vocabulary can't be cut, because it "
                "spells no word that it doesn't hold."
            )
        vocab = model["vocab"]
        self.token_to_id: dict[str, int] = (
            {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
        )
        self.continuation_prefix: str = model.get("continuing_subword_prefix") or ""
        self.end_of_word_suffix: str = model.get("end_of_word_suffix") or ""
        self.merge_ranks = {tuple(pair): rank for rank, pair in enumerate(model.get("merges", ()))}

    def split_into_symbols(self, token: str) -> list[str]:
        """What spells a piece where there is no larger one."""
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
        """The piece, and in BPE those that it is merged of on the way."""
        found, symbols = {token}, self.split_into_symbols(token)
        while ranked := [
            (self.merge_ranks[pair], i)
            for i, pair in enumerate(pairwise(symbols))
            if pair in self.merge_ranks
        ]:
            i = min(ranked)[1]
            symbols[i : i + 2] = [self.merge_pair((symbols[i], symbols[i + 1]))]
            found.add(symbols[i])
        # A piece that no merges lead to is looked up whole, or never.
        return found if symbols == [token] else {token}

    def merge_pair(self, pair: tuple[str, str]) -> str:
        """What a merge makes of two pieces."""
        return pair[0] + pair[1].removeprefix(self.continuation_prefix)

    def base_tokens(self) -> set[str]:
        """The letters, and any piece that they can't spell."""
        byte_fallback = self.tokenizer_json["model"].get("byte_fallback")
        return {
            piece
            for piece in self.token_to_id
            if (letters := self.split_into_symbols(piece)) == [piece]
            or any(letter not in self.token_to_id for letter in letters)
            or (byte_fallback and _BYTE_TOKEN.fullmatch(piece))
        }


def select_token_ids(
    tokenizer: "PreTrainedTokenizerBase",
    config: "PretrainedConfig",
    texts: Sequence[str],
    vocab_size: int | None = None,
) -> list[int]:
    """The token ids to keep, in order.

    Args:
        tokenizer: A fast tokenizer.
        config: Of its model; token ids that it names stay.
        texts: Whose tokens are to stay what they are.
        vocab_size: How many to keep in all; more where texts and letters need more.

    Raises:
        ModelError: The tokenizer's vocabulary can't be cut.
    """
    pieces = TokenizerVocab(tokenizer)
    names = {i: piece for piece, i in tokenizer.get_vocab().items()}
    if vocab_size is not None and vocab_size > len(names):
        raise ModelError(
            f"student.trim_vocab is {vocab_size:,}, and the tokenizer has {len(names):,} pieces."
        )
    ids = {token["id"] for token in pieces.tokenizer_json["added_tokens"]}
    ids |= {*tokenizer.all_special_ids, pieces.tokenizer_json["model"].get("unk_id")}
    ids.update(*_config_token_ids(config).values(), *_tokenize(tokenizer, texts))
    kept = {names[i] for i in ids if i in names} | pieces.base_tokens()
    kept.update(*map(pieces.tokens_to_build, kept & pieces.token_to_id.keys()))
    for piece in sorted(pieces.token_to_id, key=pieces.token_to_id.__getitem__):
        if vocab_size is None or len(kept) >= vocab_size:
            break
        missing = pieces.tokens_to_build(piece) - kept
        if len(kept) + len(missing) <= vocab_size and not _UNUSED_TOKEN.fullmatch(piece):
            kept |= missing
    return sorted(i for i, piece in names.items() if piece in kept)


def build_trimmed_config(config: "PretrainedConfig", kept_ids: Sequence[int]) -> "PretrainedConfig":
    """The configuration of a model of the token ids `kept_ids`, counted anew from 0."""
    new = {old: i for i, old in enumerate(kept_ids)}
    values: dict[str, Any] = {
        name: [new.get(i) for i in ids] if isinstance(getattr(get_text_config(config), name), list)
        else new.get(ids[0])
        for name, ids in _config_token_ids(config).items()
    }  # fmt: skip
    return tensor_slicing.copy_config_with(config, values | {"vocab_size": len(kept_ids)})


def trim_vocabulary(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    kept_ids: Sequence[int],
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A model and its tokenizer of the token ids `kept_ids` alone.

    Args:
        model: A classifier, in evaluation mode.
        tokenizer: Its fast tokenizer.
        texts: Of `keep`.
        kept_ids: Of `keep`.

    Returns:
        Both anew, the ids counted from 0 in the old order.

    Raises:
        ModelError: The texts would come out otherwise than before, as tokens or as logits.
    """
    rows = torch.tensor(kept_ids)
    smaller_tokenizer = _trim_tokenizer(tokenizer, kept_ids)
    was, now = _tokenize(tokenizer, texts), _tokenize(smaller_tokenizer, texts)
    others = sum(one != [kept_ids[i] for i in other] for one, other in zip(was, now, strict=True))
    if others:
        raise ModelError(
            f"student.trim_vocab: with a {type(tokenizer).__name__}, {others:,} of {len(texts):,} "
            "texts would fall into other tokens than before.",
            "Leave its vocabulary whole.",
        )
    config = build_trimmed_config(model.config, kept_ids)
    cuts = tensor_slicing.find_resized_parameters(model, config)
    if any(cut.old_size <= kept_ids[-1] for cut in cuts.values()):
        raise ModelError(
            f"The tokenizer has tokens that the model has no embedding for, such as {kept_ids[-1]:,}."
        )
    smaller = tensor_slicing.build_sliced_model(
        model, config, {name: (cut.dim, rows) for name, cut in cuts.items()}
    )
    return smaller, smaller_tokenizer


def _tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]


def _config_token_ids(config: "PretrainedConfig") -> dict[str, list[int]]:
    """The token ids that a configuration names, by attribute."""
    found = vars(get_text_config(config))
    named = {name: value for name, value in found.items() if name.endswith("_token_id")}
    return {
        name: value if isinstance(value, list) else [value]
        for name, value in named.items()
        if value is not None
    }


def _trim_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", kept_ids: Sequence[int]
) -> "PreTrainedTokenizerBase":
    """The tokenizer with the tokens `kept_ids` alone, by way of its file."""
    new = {old: i for i, old in enumerate(kept_ids)}
    pieces = TokenizerVocab(tokenizer)
    spec, model = pieces.tokenizer_json, pieces.tokenizer_json["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [model["vocab"][i] for i in kept_ids if i < len(model["vocab"])]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new[i] for piece, i in pieces.token_to_id.items() if i in new}
    if "merges" in model:
        model["merges"] = [
            pair
            for pair in model["merges"]
            if {*pair, pieces.merge_pair(tuple(pair))} <= model["vocab"].keys()
        ]
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
    if spec["padding"]:
        spec["padding"]["pad_id"] = new[spec["padding"]["pad_id"]]
    _renumber_post_processor(spec["post_processor"], new)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(
            json.dumps(spec, ensure_ascii=False), encoding="utf-8"
        )
        return model_io.load_tokenizer(Path(folder))


def _renumber_post_processor(processor: Any, new_ids: Mapping[int, int]) -> None:
    """Put new ids into what adds special tokens, whatever its kind."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _renumber_post_processor(inner, new_ids)
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new_ids[i] for i in token["ids"]]
    for part in ("sep", "cls"):
        if part in processor:
            processor[part][1] = new_ids[processor[part][1]]
