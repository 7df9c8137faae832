"""A recipe for data that nobody has written one for: its guesses, and why."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcli import paths
from kdcli.data import files, folder, guess, profile, source
from kdcli.data.labels import match_labels
from kdcli.errors import DataError, ModelError
from kdcli.models import reshape
from kdcli.models import source as models
from kdcli.models.positions import length_limit
from kdcli.outside import printable
from kdcli.recipe import yaml
from kdcli.recipe.data import DataSpec
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

TEACHER = "google-bert/bert-base-uncased"
_LOOKED_AT = 20_000
_USUAL_LIMIT = 512
_SHARE_KEPT = 99
_TOKENS_OF_A_WORD, _ENDS = 1.5, 3
_ROUNDED_TO, _LEAST = 8, 16
# More texts are learnt from in fewer passes.
_EPOCHS = ((20_000, 5), (200_000, 3))
# By the hidden width: what did well for teacher and student of MiniLM and of BERT-base's size.
_USUAL_WIDTH = 768
_RATES = ((512, (1e-4, 3e-4)), (_USUAL_WIDTH, (5e-5, 1e-4)), (math.inf, (2e-5, 5e-5)))
# What did best in docs/concepts/accuracy.md.
_LOSSES = [
    {"kind": "soft_targets", "weight": 0.5, "temperature": 2.0},
    {"kind": "cross_entropy", "weight": 0.5},
    {"kind": "hidden_mse", "weight": 10.0},
]
_SHOWN = 6


@dataclass(frozen=True)
class Wanted:
    """What the user said beforehand.

    Attributes:
        data: A file, a pattern, a folder or a Hub id.
        config: The Hub data set's configuration.
        text: The columns of the texts, one or two; none where they are to be guessed.
        label: The column of the labels, likewise.
        teacher: The model to learn from.
    """

    data: str
    config: str | None = None
    text: Sequence[str] = ()
    label: str | None = None
    teacher: str = TEACHER


@dataclass
class _Part:
    """A part of the recipe, line by line."""

    lines: list[str] = field(default_factory=list)

    def add(self, key: str, value: Any, why: str = "") -> None:
        self.lines += [f"# {printable(why)}"] if why else []
        self.lines += yaml.write({key: value}).splitlines()

    def below(self, key: str) -> str:
        return "\n".join([f"{key}:", *(f"  {line}" for line in self.lines)])


def propose(wanted: Wanted, recipe: Path) -> str:
    """The recipe as YAML, each guess explained above its line; the same for the same data.

    Args:
        wanted: What it is for.
        recipe: The file that it will be: data below its folder is named from there.

    Raises:
        DataError: The data can't be read, or its columns can't be told apart.
        HubError: The Hub can't be reached for the data.
    """
    spec = DataSpec(dataset=wanted.data, config=wanted.config)
    notes: list[str] = []
    found = source.find(spec, notes)
    rows = {name: _head(split, notes) for name, split in found.items()}
    parts = _parts(spec, found, rows)
    train = rows[parts["train"]]
    if not train:
        raise DataError(f"{wanted.data} is empty: it holds no rows.")
    text, columns = _columns(wanted, train)
    labelled = [of for of in rows.values() if _has_labels(of, columns)]
    typed = not any(
        isinstance(split, list) and files.holds_text_alone(split[0]) for split in found.values()
    )
    labels = guess.labels([row for of in labelled for row in of], columns, typed=typed)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", _stem(wanted.data)).strip("-.") or "data"
    data = _source(wanted, recipe, len(train), notes)
    _name_text(data, text, given=bool(wanted.text))
    _name_labels(data, columns, labels)
    own: dict[str, str | None] = dict(parts)
    if "test" in parts and not _has_labels(rows[parts["test"]], columns):
        own["test"] = None
    _splits(data, own)
    length, why = _max_length(wanted.teacher, train, text)
    data.add("max_length", length, why)
    head = _Part(["# Written by kd recipe new: what it guessed, and why, stands above the lines."])
    head.add("name", f"kd-{name}"[:96])
    teacher = _teacher(wanted.teacher, labels, len(train), length)
    sections = ["\n".join(head.lines), data.below("data"), *teacher, *_evaluate(labels, own)]
    return "\n\n".join(sections) + "\n"


def _head(split: Any, notes: list[str]) -> list[dict[str, Any]]:
    if isinstance(split, list):
        return files.head(split, _LOOKED_AT, notes)
    return files.of_dataset(split, _LOOKED_AT)


def _has_labels(rows: guess.Rows, columns: Sequence[str]) -> bool:
    return guess.any_labelled(row.get(name) for row in rows for name in columns)


def _parts(
    spec: DataSpec, found: Mapping[str, Any], rows: Mapping[str, Sequence[Any]]
) -> dict[str, str]:
    parts = {part: name for part, name in source.parts_of(spec, found) if rows[name]}
    if "train" not in parts:
        if len(found) > 1:
            raise DataError(
                f"{spec.dataset} has no split train; there is {', '.join(found)}.",
                "Write a recipe that says which is which: data.splits.",
            )
        parts["train"] = next(iter(found))
    return parts


def _columns(wanted: Wanted, rows: guess.Rows) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for flag, columns in (("--text", wanted.text), ("--label", filter(None, [wanted.label]))):
        for column in columns:
            if column not in rows[0]:
                raise DataError(
                    f"{flag}: there is no column {column} in {wanted.data}.",
                    f"Its columns: {', '.join(rows[0])}.",
                )
    text = tuple(wanted.text) or guess.texts(rows, wanted.data, wanted.label)
    return text, (wanted.label,) if wanted.label else guess.label(rows, wanted.data, text)


def _source(wanted: Wanted, recipe: Path, rows: int, notes: Sequence[str]) -> _Part:
    data = _Part()
    looked_at = f"The first {rows:,} rows" if rows == _LOOKED_AT else f"All {rows:,} rows of train"
    data.lines += [f"# {printable(note)}" for note in notes]
    data.add("dataset", _named_from(wanted.data, recipe), f"{looked_at} were looked at.")
    if wanted.config is not None:
        data.add("config", wanted.config)
    return data


def _name_text(data: _Part, text: Sequence[str], *, given: bool) -> None:
    kind = "Strings that mostly differ from row to row." if len(text) == 1 else "A pair of texts."
    data.add("text", _one_or_all(text), "As --text says." if given else kind)


def _name_labels(data: _Part, columns: Sequence[str], labels: guess.Labels) -> None:
    names = labels.names
    what = f"{labels.why} " if labels.why else ""
    what += f"{len(names):,} labels: " if names else ""
    what += ", ".join(names[:_SHOWN]) + ", …" * (len(names) > _SHOWN)
    if labels.task is MULTI_LABEL:
        what += "; a text may have any number of them."
    data.add("label", _one_or_all(columns), what)
    if labels.separator is not None:
        data.add("label_separator", labels.separator)
    if labels.task is not SINGLE_LABEL or labels.why:
        data.add("task", labels.task.name)


def _one_or_all(columns: Sequence[str]) -> str | list[str]:
    return columns[0] if len(columns) == 1 else list(columns)


def _named_from(data: str, recipe: Path) -> str:
    if not folder.is_here(DataSpec(dataset=data)):
        return data
    path = paths.local(data).resolve()
    base = recipe.resolve().parent
    return str(path.relative_to(base)) if path.is_relative_to(base) and path != base else str(path)


def _stem(data: str) -> str:
    name = Path(data).resolve().name if folder.is_here(DataSpec(dataset=data)) else data
    name = name.rpartition("/")[2]
    return name.partition(".")[0] if files.kind(Path(name)) else name


def _splits(data: _Part, parts: Mapping[str, str | None]) -> None:
    if "validation" not in parts:
        data.add("validation_fraction", 0.1, "There is no validation split: a part of train is it.")
    if dict(parts) == {"train": "train"}:
        return
    why = "The parts, as they are called there."
    if parts.get("test", "") is None:
        why = (
            "The test texts have no labels: nothing can be measured on them. The finished student "
            "can label them."
        )
    data.add("splits", dict(parts), why)


def _max_length(teacher: str, rows: guess.Rows, text: Sequence[str]) -> tuple[int, str]:
    texts = [[str(row[column] or "") for row in rows] for column in text]
    pairs = texts[1] if len(texts) > 1 else None
    if found := _at_hand(teacher):
        config, tokenizer = found
        limit, unit = length_limit(reshape.skeleton(config), tokenizer, None), "tokens"
        long = float(np.percentile(profile.in_tokens(tokenizer)(texts[0], pairs)[0], _SHARE_KEPT))
        tokens = long
    else:
        limit, unit = _USUAL_LIMIT, "words"
        long = float(np.percentile(profile.in_words(texts[0], pairs)[0], _SHARE_KEPT))
        tokens = _TOKENS_OF_A_WORD * long + _ENDS
    rounded = _ROUNDED_TO * int(np.ceil(tokens / _ROUNDED_TO))
    why = f"{_SHARE_KEPT} % of the texts have at most {long:.0f} {unit}."
    return min(max(rounded, _LEAST), limit), why


def _at_hand(teacher: str) -> tuple[Any, Any] | None:
    try:
        found = models.at_hand(teacher)
        return None if found is None else (models.load_config(found), models.load_tokenizer(found))
    except ModelError:
        return None


def _teacher(model: str, labels: guess.Labels, rows: int, length: int) -> list[str]:
    batch = 32 if length <= 128 else 16 if length <= 256 else 8
    epochs = next((passes for most, passes in _EPOCHS if rows < most), 2)
    fit = {"batch_size": batch, "epochs": epochs}
    teacher, distill = _Part(), _Part()
    local = paths.local(model)
    teacher.add("model", str(local.resolve()) if local.exists() else model)
    found = _at_hand(model)
    width = getattr(found[0], "hidden_size", _USUAL_WIDTH) if found else _USUAL_WIDTH
    teachers, students = next(rates for most, rates in _RATES if width <= most)
    if found and labels.names and _knows(found[0], labels.names):
        teacher.lines.append("# It is a classifier of these labels already: nothing to fine-tune.")
    else:
        why = f"For {rows:,} texts of up to {length} tokens, on one GPU."
        teacher.add("fine_tune", {"learning_rate": teachers, **fit}, why)
    distill.add("learning_rate", students, "What is cut bears larger steps than what is whole.")
    for key, value in fit.items():
        distill.add(key, value)
    distill.add("dropout", 0, "It costs a third of the time, and the teacher steadies enough.")
    one_stack = not found[0].is_encoder_decoder if found else model == TEACHER
    if one_stack and labels.task is not REGRESSION:
        distill.add("losses", _LOSSES, "Matching the hidden states costs a third more time.")
    student = _Part()
    student.add("drop_every", 2, "Every second layer of the teacher.")
    baseline = _Part()
    baseline.add("baseline", True, "The same student, taught by labels alone, to compare with.")
    sections = [teacher.below("teacher"), student.below("student"), distill.below("distill")]
    return [*sections, "\n".join(baseline.lines)]


def _knows(config: Any, names: Sequence[str]) -> bool:
    """Whether a model is a classifier of these labels."""
    heads = config.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in heads):
        return False
    try:
        match_labels(names, models.labels_of(config), ordered=False)
    except ModelError:
        return False
    return True


def _evaluate(labels: guess.Labels, parts: Mapping[str, str | None]) -> list[str]:
    evaluate = _Part()
    evaluate.add("splits", ["validation", *(["test"] if parts.get("test") else [])])
    other = guess.out_of_scope(labels.names) if labels.task is SINGLE_LABEL else None
    if other is not None:
        evaluate.add(
            "out_of_scope", other, "By its name it is for what fits none of the other labels."
        )
    return [evaluate.below("evaluate")]
