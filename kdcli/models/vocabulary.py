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
from kdcli.models import reshape, source
from kdcli.models.layers import text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TYPES = ("WordPiece", "BPE", "Unigram")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_PLACEHOLDER = re.compile(r"[\[<]unused_?\d+[\]>]")


class Pieces:
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
        self.spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        model = self.spec["model"]
        if model["type"] not in _TYPES:
            raise ModelError(
                f"student.trim_vocab: a {model['type']} vocabulary can't be cut, because it "
                "spells no word that it doesn't hold."
            )
        vocab = model["vocab"]
        self.ids: dict[str, int] = (
            {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
        )
        self.prefix: str = model.get("continuing_subword_prefix") or ""
        self.suffix: str = model.get("end_of_word_suffix") or ""
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model.get("merges", ()))}

    def letters(self, piece: str) -> list[str]:
        """What spells a piece where there is no larger one."""
        inside = bool(self.prefix) and piece.startswith(self.prefix)
        body = piece.removeprefix(self.prefix) if inside else piece
        ends = bool(self.suffix) and body.endswith(self.suffix)
        symbols = list(body.removesuffix(self.suffix) if ends else body)
        symbols = [self.prefix + s if inside or i else s for i, s in enumerate(symbols)]
        if ends and symbols:
            symbols[-1] += self.suffix
        return symbols

    def needed_by(self, piece: str) -> set[str]:
        """The piece, and in BPE those that it is merged of on the way."""
        found, symbols = {piece}, self.letters(piece)
        while ranked := [
            (self.ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in self.ranks
        ]:
            i = min(ranked)[1]
            symbols[i : i + 2] = [self.product((symbols[i], symbols[i + 1]))]
            found.add(symbols[i])
        # A piece that no merges lead to is looked up whole, or never.
        return found if symbols == [piece] else {piece}

    def product(self, pair: tuple[str, str]) -> str:
        """What a merge makes of two pieces."""
        return pair[0] + pair[1].removeprefix(self.prefix)

    def basic(self) -> set[str]:
        """The letters, and any piece that they can't spell."""
        byte_fallback = self.spec["model"].get("byte_fallback")
        return {
            piece
            for piece in self.ids
            if (letters := self.letters(piece)) == [piece]
            or any(letter not in self.ids for letter in letters)
            or (byte_fallback and _BYTE.fullmatch(piece))
        }


def keep(
    tokenizer: "PreTrainedTokenizerBase",
    config: "PretrainedConfig",
    texts: Sequence[str],
    size: int | None = None,
) -> list[int]:
    """The token ids to keep, in order.

    Args:
        tokenizer: A fast tokenizer.
        config: Of its model; token ids that it names stay.
        texts: Whose tokens are to stay what they are.
        size: How many to keep in all; more where texts and letters need more.

    Raises:
        ModelError: The tokenizer's vocabulary can't be cut.
    """
    pieces = Pieces(tokenizer)
    names = {i: piece for piece, i in tokenizer.get_vocab().items()}
    if size is not None and size > len(names):
        raise ModelError(
            f"student.trim_vocab is {size:,}, and the tokenizer has {len(names):,} pieces."
        )
    ids = {token["id"] for token in pieces.spec["added_tokens"]}
    ids |= {*tokenizer.all_special_ids, pieces.spec["model"].get("unk_id")}
    ids.update(*_named(config).values(), *_tokens(tokenizer, texts))
    kept = {names[i] for i in ids if i in names} | pieces.basic()
    kept.update(*map(pieces.needed_by, kept & pieces.ids.keys()))
    for piece in sorted(pieces.ids, key=pieces.ids.__getitem__):
        if size is None or len(kept) >= size:
            break
        missing = pieces.needed_by(piece) - kept
        if len(kept) + len(missing) <= size and not _PLACEHOLDER.fullmatch(piece):
            kept |= missing
    return sorted(i for i, piece in names.items() if piece in kept)


def config_for(config: "PretrainedConfig", kept: Sequence[int]) -> "PretrainedConfig":
    """The configuration of a model of the token ids `kept`, counted anew from 0."""
    new = {old: i for i, old in enumerate(kept)}
    values: dict[str, Any] = {
        name: [new.get(i) for i in ids] if isinstance(getattr(text_config(config), name), list)
        else new.get(ids[0])
        for name, ids in _named(config).items()
    }  # fmt: skip
    return reshape.changed(config, values | {"vocab_size": len(kept)})


def trim(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    kept: Sequence[int],
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A model and its tokenizer of the token ids `kept` alone.

    Args:
        model: A classifier, in evaluation mode.
        tokenizer: Its fast tokenizer.
        texts: Of `keep`.
        kept: Of `keep`.

    Returns:
        Both anew, the ids counted from 0 in the old order.

    Raises:
        ModelError: The texts would come out otherwise than before, as tokens or as logits.
    """
    rows = torch.tensor(kept)
    smaller_tokenizer = _renumbered(tokenizer, kept)
    was, now = _tokens(tokenizer, texts), _tokens(smaller_tokenizer, texts)
    others = sum(one != [kept[i] for i in other] for one, other in zip(was, now, strict=True))
    if others:
        raise ModelError(
            f"student.trim_vocab: with a {type(tokenizer).__name__}, {others:,} of {len(texts):,} "
            "texts would fall into other tokens than before.",
            "Leave its vocabulary whole.",
        )
    config = config_for(model.config, kept)
    cuts = reshape.cuts(model, config)
    if any(cut.before <= kept[-1] for cut in cuts.values()):
        raise ModelError(
            f"The tokenizer has tokens that the model has no embedding for, such as {kept[-1]:,}."
        )
    smaller = reshape.build(model, config, {name: (cut.dim, rows) for name, cut in cuts.items()})
    return smaller, smaller_tokenizer


def _tokens(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]


def _named(config: "PretrainedConfig") -> dict[str, list[int]]:
    """The token ids that a configuration names, by attribute."""
    found = vars(text_config(config))
    named = {name: value for name, value in found.items() if name.endswith("_token_id")}
    return {
        name: value if isinstance(value, list) else [value]
        for name, value in named.items()
        if value is not None
    }


def _renumbered(
    tokenizer: "PreTrainedTokenizerBase", kept: Sequence[int]
) -> "PreTrainedTokenizerBase":
    """The tokenizer with the tokens `kept` alone, by way of its file."""
    new = {old: i for i, old in enumerate(kept)}
    pieces = Pieces(tokenizer)
    spec, model = pieces.spec, pieces.spec["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [model["vocab"][i] for i in kept if i < len(model["vocab"])]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new[i] for piece, i in pieces.ids.items() if i in new}
    if "merges" in model:
        model["merges"] = [
            pair
            for pair in model["merges"]
            if {*pair, pieces.product(tuple(pair))} <= model["vocab"].keys()
        ]
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
    if spec["padding"]:
        spec["padding"]["pad_id"] = new[spec["padding"]["pad_id"]]
    _renumber_template(spec["post_processor"], new)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(
            json.dumps(spec, ensure_ascii=False), encoding="utf-8"
        )
        return source.load_tokenizer(Path(folder))


def _renumber_template(processor: Any, new: Mapping[int, int]) -> None:
    """Put new ids into what adds special tokens, whatever its kind."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _renumber_template(inner, new)
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    for part in ("sep", "cls"):
        if part in processor:
            processor[part][1] = new[processor[part][1]]
