"""Check a recipe's data outside a run: balance, duplicates, leaks, lengths."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data import column_access, dataset_loading
from kdcli.data.checks import duplicates, split_statistics
from kdcli.data.labels import class_labels, label_arrays, task_inference
from kdcli.errors import ModelError, UserError
from kdcli.models import model_io, tensor_slicing
from kdcli.models.sequence_length import get_max_length
from kdcli.pipeline import run_datasets
from kdcli.progress import Reporter, SilentReporter
from kdcli.recipe.schema import Recipe
from kdcli.tasks import REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset


def check_data(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """Describe the data of a recipe; no weights are loaded.

    Args:
        recipe: The recipe; tokens are counted if its teacher is on this disk.
        reporter: Receives notes.

    Returns:
        `task`; `splits`, by part, each with `rows`, `empty` and `unlabelled` (how many, and where
        the first is), `short` texts, `duplicates` (texts less different texts), `conflicting`
        (different texts labelled in several ways), `labels`, `lengths` and `scripts` (see
        `kdcli.data.checks.split_statistics`);
        `leaks` from one split to another; `conflicting` over all splits; `labels`: those that are
        `not_in_train`, `only_in_test` and `nowhere`.

    Raises:
        DataError: The data can't be read.
        RemoteServiceError: The Hub can't be reached for the data.
    """
    notes: list[str] = []
    found, places, _ = dataset_loading.read_splits(recipe.data, notes)
    for note in notes:
        reporter.info(note)
    sound: dict[str, Dataset] = {}
    faults: dict[str, dict[str, Any]] = {}
    for part, split in found.items():
        sound[part], places[part], faults[part] = _select_complete_rows(split, places[part])
    # From here on, rows are complete.
    named, task = sound, SINGLE_LABEL
    names: tuple[str, ...] = ()
    if recipe.data.label is not None:
        notes.clear()
        named, names, task, _ = task_inference.infer_task_and_unify_labels(
            sound, recipe.data, places, notes
        )
        for note in notes:
            reporter.info(note)
    ids = {part: label_arrays.label_codes(split) for part, split in named.items()}
    keys = {part: duplicates.text_hashes(split) for part, split in named.items()}
    count, unit, limit = _length_counter(recipe, reporter)
    splits = {
        part: {
            "rows": len(found[part]),
            **faults[part],
            "duplicates": duplicates.count_duplicates(keys[part]),
            "conflicting": duplicates.count_label_conflicts(keys[part], ids[part]),
            "labels": _label_balance(split, task, names),
            "lengths": split_statistics.text_length_statistics(split, count, unit, limit)
            if len(split)
            else None,
            "scripts": split_statistics.writing_script_shares(split),
        }
        for part, split in named.items()
    }
    everywhere = np.concatenate([*keys.values()]), np.concatenate([*ids.values()])
    return {
        "dataset": recipe.data.dataset,
        "task": task.name,
        "splits": splits,
        "leaks": [_count_shared_texts(a, b, keys, ids) for a, b in combinations(named, 2)],
        "conflicting": duplicates.count_label_conflicts(*everywhere),
        "labels": _labels_without_examples(splits, () if task is REGRESSION else names),
    }


def find_refusal(recipe: Recipe) -> UserError | None:
    """Return the error with which a run would refuse the recipe's data; None if it would not."""
    try:
        run_datasets.load_recipe_dataset(recipe, SilentReporter())
    except UserError as error:
        return error
    return None


def _select_complete_rows(
    split: "Dataset", row_location: column_access.RowLocator
) -> tuple["Dataset", column_access.RowLocator, dict[str, Any]]:
    """Return the rows with text and label, their locations, and counts of incomplete rows."""
    columns = column_access.text_column_names(split)
    labelled = "label" in split.column_names
    known = labelled and class_labels.marks_missing_with_minus_one(split)
    whole = np.ones(len(split), dtype=bool)
    gaps = np.zeros(len(split), dtype=bool)
    short, row = 0, 0
    for texts in column_access.iterate_column_batches(
        split, *columns, *(["label"] if labelled else [])
    ):
        for of_row in zip(*texts, strict=True):
            stripped = [text.strip() if text else "" for text in of_row[: len(columns)]]
            whole[row] = all(stripped)
            gaps[row] = labelled and class_labels.is_missing_label(
                of_row[-1], minus_one_is_missing=known
            )
            short += any(
                0 < len(text) < split_statistics.SHORT_TEXT_CHARACTERS for text in stripped
            )
            row += 1
    amiss = {
        "empty": _count_and_first(~whole, row_location),
        "unlabelled": _count_and_first(gaps, row_location),
        "short": short,
    }
    if (keep := whole & ~gaps).all():
        return split, row_location, amiss
    kept = np.flatnonzero(keep)
    return split.select(kept), lambda row: row_location(int(kept[row])), amiss


def _label_balance(split: "Dataset", task: Task, names: Sequence[str]) -> dict[str, Any]:
    if task is REGRESSION or not names:
        return split_statistics.label_balance(np.zeros(0), ())
    return split_statistics.label_balance(label_arrays.count_labels(split, task, len(names)), names)


def _count_and_first(rows: np.ndarray, row_location: column_access.RowLocator) -> dict[str, Any]:
    found = np.flatnonzero(rows)
    return {"texts": len(found), "first": row_location(int(found[0])) if len(found) else None}


def _count_shared_texts(
    first: str,
    second: str,
    text_keys: Mapping[str, np.ndarray],
    label_ids: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    again, otherwise = duplicates.find_train_overlap_by_hash(
        text_keys[second], label_ids[second], text_keys[first], label_ids[first]
    )
    return {
        "from": first,
        "to": second,
        "texts": int(again.sum()),
        "with_other_labels": int(otherwise.sum()),
    }


def _labels_without_examples(
    splits: Mapping[str, Any], names: Sequence[str]
) -> dict[str, list[str]]:
    there = {part: split["labels"]["texts"].keys() for part, split in splits.items()}
    used = set().union(*there.values())
    before = set().union(*(those for part, those in there.items() if part != "test"))
    train = there.get("train", used)
    return {
        "not_in_train": [name for name in names if name in used and name not in train],
        "only_in_test": [name for name in names if name in used - before],
        "nowhere": [name for name in names if name not in used],
    }


def _length_counter(
    recipe: Recipe, reporter: Reporter
) -> tuple[split_statistics.LengthCounter, str, int | None]:
    """Return a length counter, its unit, and the model's maximal length."""
    reader = recipe.student if recipe.white_box_teacher is None else recipe.white_box_teacher
    who = "student" if recipe.white_box_teacher is None else "teacher"
    try:
        assert reader.model is not None, "a recipe of a black box names its student's model"
        folder = model_io.find_local_model(reader.model, reader.revision)
        if folder is not None:
            tokenizer = model_io.load_tokenizer(folder)
            model = tensor_slicing.build_meta_model(model_io.load_config(folder))
            limit = get_max_length(model, tokenizer, recipe.data.max_length)
            return split_statistics.token_length_counter(tokenizer), "tokens", limit
        why = f"The {who} {reader.model} is not on this disk"
    except ModelError as error:
        why = f"The {who} can't be read ({error.message.rstrip('.')})"
    reporter.info(f"{why}: lengths are in words, of which each is a token or more.")
    return split_statistics.count_words, "words", recipe.data.max_length
