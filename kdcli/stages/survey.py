"""A look at a recipe's data, outside a run: what it is like, and what deserves attention."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import labels, pieces, profile, repeats, source, targets
from kdcli.errors import ModelError
from kdcli.models import reshape
from kdcli.models import source as models
from kdcli.models.positions import length_limit
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.tasks import REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset


def survey(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """What the data of a recipe is like; the teacher's weights are not looked at.

    Args:
        recipe: Names the data, and the teacher whose tokens are counted where it is on this disk.
        reporter: Told what was decided on the way.

    Returns:
        `task`; `splits`, by part, each with `rows`, `empty` and `unlabelled` (how many, and where
        the first is), `short` texts, `duplicates` (texts less different texts), `conflicting`
        (different texts labelled in several ways), `labels`, `lengths` and `scripts` (see
        `kdcli.data.profile`);
        `leaks` from one split to another; `conflicting` over all splits; `labels`: those that are
        `not_in_train`, `only_in_test` and `nowhere`.

    Raises:
        DataError: The data can't be read.
        HubError: The Hub can't be reached for the data.
    """
    notes: list[str] = []
    found, places, _ = source.read(recipe.data, notes)
    for note in notes:
        reporter.say(note)
    sound: dict[str, Dataset] = {}
    faults: dict[str, dict[str, Any]] = {}
    for part, split in found.items():
        sound[part], places[part], faults[part] = _sound(split, places[part])
    # From here on a row is one of those that are sound.
    named, task = sound, SINGLE_LABEL
    names: tuple[str, ...] = ()
    if recipe.data.label is not None:
        notes.clear()
        named, names, task, _ = targets.named(sound, recipe.data, places, notes)
        for note in notes:
            reporter.say(note)
    ids = {part: targets.codes(split) for part, split in named.items()}
    keys = {part: repeats.keys(split) for part, split in named.items()}
    count, unit, limit = _measure(recipe, reporter)
    splits = {
        part: {
            "rows": len(found[part]),
            **faults[part],
            "duplicates": repeats.duplicates(keys[part]),
            "conflicting": repeats.conflicts(keys[part], ids[part]),
            "labels": _balance(split, task, names),
            "lengths": profile.lengths(split, count, unit, limit) if len(split) else None,
            "scripts": profile.scripts(split),
        }
        for part, split in named.items()
    }
    everywhere = np.concatenate([*keys.values()]), np.concatenate([*ids.values()])
    return {
        "dataset": recipe.data.dataset,
        "task": task.name,
        "splits": splits,
        "leaks": [_leak(a, b, keys, ids) for a, b in combinations(named, 2)],
        "conflicting": repeats.conflicts(*everywhere),
        "labels": _missing(splits, () if task is REGRESSION else names),
    }


def _sound(split: "Dataset", place: labels.Place) -> tuple["Dataset", labels.Place, dict[str, Any]]:
    """The rows that have text and label, where each stands, and what is amiss with the others."""
    columns = pieces.text_columns(split)
    labelled = "label" in split.column_names
    known = labelled and labels.has_gap_code(split)
    whole = np.ones(len(split), dtype=bool)
    gaps = np.zeros(len(split), dtype=bool)
    short, row = 0, 0
    for texts in pieces.lists(split, *columns, *(["label"] if labelled else [])):
        for of_row in zip(*texts, strict=True):
            stripped = [text.strip() if text else "" for text in of_row[: len(columns)]]
            whole[row] = all(stripped)
            gaps[row] = labelled and labels.is_gap(of_row[-1], known=known)
            short += any(0 < len(text) < profile.SHORT for text in stripped)
            row += 1
    amiss = {
        "empty": _faults(~whole, place),
        "unlabelled": _faults(gaps, place),
        "short": short,
    }
    if (keep := whole & ~gaps).all():
        return split, place, amiss
    kept = np.flatnonzero(keep)
    return split.select(kept), lambda row: place(int(kept[row])), amiss


def _balance(split: "Dataset", task: Task, names: Sequence[str]) -> dict[str, Any]:
    if task is REGRESSION or not names:
        return profile.balance(np.zeros(0), ())
    return profile.balance(targets.counts(split, task, len(names)), names)


def _faults(rows: np.ndarray, place: labels.Place) -> dict[str, Any]:
    found = np.flatnonzero(rows)
    return {"texts": len(found), "first": place(int(found[0])) if len(found) else None}


def _leak(
    first: str, second: str, keys: Mapping[str, np.ndarray], ids: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    again, otherwise = repeats.known(keys[second], ids[second], keys[first], ids[first])
    return {
        "from": first,
        "to": second,
        "texts": int(again.sum()),
        "with_other_labels": int(otherwise.sum()),
    }


def _missing(splits: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    there = {part: split["labels"]["texts"].keys() for part, split in splits.items()}
    used = set().union(*there.values())
    before = set().union(*(those for part, those in there.items() if part != "test"))
    train = there.get("train", used)
    return {
        "not_in_train": [name for name in names if name in used and name not in train],
        "only_in_test": [name for name in names if name in used - before],
        "nowhere": [name for name in names if name not in used],
    }


def _measure(recipe: Recipe, reporter: Reporter) -> tuple[profile.Count, str, int | None]:
    """How to count a text's length, what that counts, and the most that the model sees."""
    reader = recipe.student if recipe.white_box is None else recipe.white_box
    who = "student" if recipe.white_box is None else "teacher"
    try:
        assert reader.model is not None, "a recipe of a black box names its student's model"
        folder = models.at_hand(reader.model, reader.revision)
        if folder is not None:
            tokenizer = models.load_tokenizer(folder)
            model = reshape.skeleton(models.load_config(folder))
            limit = length_limit(model, tokenizer, recipe.data.max_length)
            return profile.in_tokens(tokenizer), "tokens", limit
        why = f"The {who} {reader.model} is not on this disk"
    except ModelError as error:
        why = f"The {who} can't be read ({error.message.rstrip('.')})"
    reporter.say(f"{why}: lengths are in words, of which each is a token or more.")
    return profile.in_words, "words", recipe.data.max_length
