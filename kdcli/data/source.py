"""From a Hub id, a file or a folder to named splits of texts and labels."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcli import hub
from kdcli.data import files, folder, guess, label_sets, labels, pieces, repeats, targets
from kdcli.data.files import first_line
from kdcli.errors import DataError, KdError, NoColumnError, of_machine
from kdcli.recipe.data import DataSpec
from kdcli.tasks import REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from kdcli.data.folder import Found

_PARTS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
_MORE_TEXTS = (
    "Give more texts of each label, a larger data.validation_fraction, or a split of your own "
    "(data.splits.validation)."
)
_OLD_NAMES = {"clinc_oos": "clinc/clinc_oos"}


@dataclass(frozen=True)
class Corpus:
    """A data set ready for use.

    Attributes:
        splits: `train`, `validation` and `test`, as far as they are there; each with the columns
            `text`, `text_pair` where the task is on pairs, and `label`: a ClassLabel, a list of
            them, or a number.
        labels: The labels' names, in the order of their ids; of a score its column's name.
        notes: What was decided on the way that the user should know.
        task: What the labels are.
        labelled: Whether the data has labels of its own; otherwise splits have no column `label`
            before the teacher has been asked.
        ordered: Whether the data puts its labels in order; False where kd has sorted their names.
        sources: By part, the split of the data set that its texts come from.
    """

    splits: dict[str, "Dataset"]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    task: Task = SINGLE_LABEL
    labelled: bool = True
    ordered: bool = True
    sources: Mapping[str, str] = field(default_factory=dict)

    def present(self, split: str) -> list[str]:
        """The names of the labels that occur in `split`; all, where it has none."""
        if "label" not in self.splits[split].column_names:
            return [*self.labels]
        found = targets.counts(self.splits[split], self.task, len(self.labels))
        return [name for name, texts in zip(self.labels, found, strict=True) if texts]

    def match(self, model: Sequence[str], present: Sequence[str] | None = None) -> list[int]:
        """For each label the model's output; see `kdcli.data.labels.match_labels`.

        Args:
            model: The names of the model's outputs, in order.
            present: The labels that need a match; left out, all.
        """
        return labels.match_labels(self.labels, model, present=present, ordered=self.ordered)

    def named_by(self, model: Sequence[str]) -> "Corpus":
        """The same data with the names of a model's outputs, where its own labels have none."""
        nameless = labels.is_generic(self.labels) and not labels.is_generic(model)
        if self.task is REGRESSION or not nameless or len(model) != len(self.labels):
            return self
        return replace(self, labels=tuple(model))

    def truth(self, split: "Dataset", places: Sequence[int], outputs: int) -> np.ndarray:
        """A split's labels, as `task.decide` gives a model's; see `kdcli.data.targets.truth`."""
        return targets.truth(split, self.task, places, outputs)

    def prior(self, names: Sequence[str]) -> np.ndarray | None:
        """What the training texts' labels say before a text is read; see `Task.prior`.

        Args:
            names: The labels' in the order of the model's outputs.
        """
        if self.task.prior is None or not self.labelled:
            return None
        places = self.match(names, self.present("train"))
        return self.task.prior(self.truth(self.splits["train"], places, len(names)))


def identity(spec: DataSpec) -> str:
    """What the data is, for the key of what is made from it; nothing is downloaded.

    Files are known by their content, a Hub data set by id and revision (pin a commit where a
    moving branch matters).
    """
    if not folder.is_here(spec):
        return f"hub:{spec.dataset}@{spec.revision or 'main'}"
    return f"sha256:{folder.digest(spec)}"


def load(
    spec: DataSpec,
    seed: int,
    *,
    to_train: bool = True,
    named: tuple[tuple[str, ...], Task] | None = None,
) -> Corpus:
    """Load the data set of a recipe.

    Args:
        spec: Names the data set, its columns and its splits.
        seed: Of the cut, where a validation split has to be set aside.
        to_train: Whether there must be a train split, of two labels at least, and a validation
            split, set aside from it where there is none; to measure on, any split will do.
        named: Of data without labels, those that its texts may have, and what they are.

    Raises:
        DataError: The data set, a split, a column or a label is missing or unusable.
        HubError: The Hub can't be reached.
    """
    notes: list[str] = []
    splits, places, sources = read(spec, notes, to_train=to_train)
    for part, split in splits.items():
        _refuse_empty(split, places[part])
    if named is None:
        splits, names, task, ordered = targets.named(splits, spec, places, notes)
    else:
        (names, task), ordered = named, True
        targets.refuse_one_label(names, task)
    if task is not SINGLE_LABEL:
        notes.append(f"The task is {task}: {task.words}.")
    if to_train and named is None:
        targets.refuse_uniform(splits["train"], names, task, spec)
    if to_train and "validation" not in splits:
        by_label = named is None and task is SINGLE_LABEL
        set_aside = _cut_by_label if by_label else _cut
        splits |= set_aside(splits["train"], spec, seed)
        sources["validation"] = f"{sources['train']}, held out"
        how = "stratified by label" if by_label else "at random"
        notes.append(
            f"There is no validation split: {len(splits['validation']):,} of the "
            f"{len(splits['train']) + len(splits['validation']):,} training texts were set aside "
            f"({how}, seed {seed})."
        )
    every = (*notes, *repeats.notes(splits))
    return Corpus(splits, names, every, task, named is None, ordered, sources)


def read(
    spec: DataSpec, notes: list[str], *, to_train: bool = False
) -> tuple[dict[str, "Dataset"], dict[str, labels.Place], dict[str, str]]:
    """The splits as they were found, by part: texts may be empty, and labels missing or unnamed.

    A test split without any labels is left out, as there is nothing to measure there.

    Args:
        spec: Names the data set, its columns and its splits.
        notes: Told what was decided on the way.
        to_train: Whether there must be a train split.

    Returns:
        The splits, with `text` (and `text_pair`) and, where there are labels, `label`, a list
        where a text has several; by part, where its rows stand; and by part, what the data set
        calls it.

    Raises:
        DataError: The data set, all splits, or a column are missing or unusable.
        HubError: The Hub can't be reached.
    """
    found = find(spec, notes)
    parts = dict(parts_of(spec, found))
    if to_train and "train" not in parts:
        wanted = folder.split_name(spec.splits.train)
        raise DataError(f"There is no split {wanted} to train on in {spec.dataset}.")
    if not parts:
        raise DataError(
            f"There is no split train, validation or test in {spec.dataset}; "
            f"there is {', '.join(found)}.",
            "Say which is which: data.splits.",
        )
    splits, places = {}, {}
    for part, name in [*parts.items()]:
        place = _places(spec, name, found[name])
        try:
            split = _columns(spec, name, found[name], notes)
            gaps = part == "test" and _has_no_labels(split)
        except NoColumnError as error:
            gaps = part == "test" and error.key == "label"
            gaps = gaps and set(spec.labels).isdisjoint(error.known)
            if not gaps:
                raise
        if gaps:
            del parts[part]
            notes.append(
                f"The test split {name} of {spec.dataset} has no labels, and is left out: nothing "
                "can be measured on it. Its texts can be labelled with the finished student."
            )
            continue
        splits[part], places[part] = _with_lists(split, spec, place), place
    if not splits:
        raise DataError(f"{spec.dataset} has no labels to measure by.", "Name another: data.label.")
    return splits, places, parts


def unlabelled(spec: DataSpec, notes: list[str]) -> "Dataset":
    """The texts of a data set's first split, train where there is one, without their labels.

    Args:
        spec: Names the data set, its text columns and its splits.
        notes: Told what was decided on the way.

    Raises:
        DataError: The data set or a column is missing or unusable.
        HubError: The Hub can't be reached.
    """
    spec = spec.model_copy(update={"label": None, "label_separator": None})
    found = find(spec, notes)
    _, name = next(parts_of(spec, found), ("train", next(iter(found))))
    split = _columns(spec, name, found[name], notes)
    _refuse_empty(split, _places(spec, name, found[name]))
    return split


def find(spec: DataSpec, notes: list[str]) -> "Mapping[str, Found]":
    """What there is, by split: files that are ours to read, or what `datasets` has read.

    Raises:
        DataError: There is no such data set, or it is unusable.
        HubError: The Hub can't be reached.
    """
    if not folder.is_here(spec):
        return _read_from_hub(spec, notes)
    try:
        return folder.find(spec, notes)
    except KdError:
        raise
    except Exception as error:
        raise _unreadable(spec.dataset, error, folder.HINT) from error


def _read_from_hub(spec: DataSpec, notes: list[str]) -> "DatasetDict":
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name = _OLD_NAMES.get(spec.dataset, spec.dataset)
    if name != spec.dataset:
        notes.append(f"The data set {spec.dataset} is called {name} now.")
    if files.kind(Path(name)) or name.count("/") != 1:
        raise DataError(
            f"There is no data set {name}: no such file or folder, and a Hub id is OWNER/NAME."
        )
    try:
        with hub.errors(f"the data set {name}"):
            return hub.from_cache_where_silent(
                lambda: load_dataset(name, spec.config, revision=spec.revision)
            )
    except KdError:
        raise
    except DatasetNotFoundError as error:
        raise DataError(
            f"There is no data set {name}: no such file or folder here, and none on the Hub "
            "that you may see."
        ) from error
    except Exception as error:
        raise _unreadable(f"The data set {name}", error) from error


def parts_of(spec: DataSpec, found: "Mapping[str, Found]") -> Iterator[tuple[str, str]]:
    """Which of the splits found plays which part, as (part, split) pairs."""
    stated = spec.splits.stated
    taken = {folder.split_name(split) for split in stated.values() if split is not None}
    for part, usual in _PARTS.items():
        split = stated.get(part)
        wanted = None if split is None else folder.split_name(split)
        if wanted is None and part in stated:
            continue
        if wanted is None:
            # What plays another part by the recipe can't be this one, whatever its name.
            wanted = next((n for n in usual if n in found and n not in taken), None)
        elif wanted not in found and part == "train":
            continue
        elif wanted not in found:
            raise DataError(
                f"data.splits.{part}: there is no split {wanted} in {spec.dataset}; "
                f"there is {', '.join(found)}."
            )
        if wanted is not None:
            if not len(found[wanted]):
                raise DataError(f"The split {wanted} of {spec.dataset} is empty.")
            yield part, wanted


def _columns(spec: DataSpec, name: str, found: "Found", notes: list[str]) -> "Dataset":
    """A split's texts and labels, under the names that the rest of kd knows them by."""
    texts = (spec.text,) if isinstance(spec.text, str) else spec.text
    columns = spec.labels
    single = len(columns) == 1
    called = dict(zip(columns, ["label"] if single else label_sets.columns(columns), strict=True))
    wanted = dict(zip(("text", "text_pair"), texts, strict=False))
    wanted |= {standard: column for column, standard in called.items()}
    if len(set(wanted.values())) < len(texts) + len(columns):
        raise DataError(
            f"Text and label are columns of their own, not {', '.join(texts + columns)}."
        )
    if isinstance(found, list):
        numbers = spec.label_separator is None and spec.task != SINGLE_LABEL.name
        found = files.read(found, texts, columns, notes, numbers=numbers)
    for column in wanted.values():
        if column not in found.column_names:
            key = "label" if column in columns else "text"
            where = f"split {name} of {spec.dataset}"
            raise NoColumnError(key, column, where, found.column_names)
        dtype = getattr(found.features[column], "dtype", "list")
        if column not in columns and dtype not in ("string", "large_string"):
            raise DataError(f"Column {column} of split {name} of {spec.dataset} holds no text.")
    split = found.select_columns(list(wanted.values()))
    # All at once: a pair may be [title, text], and title becomes text.
    return split.rename_columns({column: standard for standard, column in wanted.items()})


def _with_lists(split: "Dataset", spec: DataSpec, place: labels.Place) -> "Dataset":
    """A split with lists of labels, where these are several columns or in one cell."""
    if len(spec.labels) > 1:
        return label_sets.from_columns(split, spec.labels, place)
    if spec.label_separator is not None:
        return label_sets.separated(split, spec.label_separator, spec.labels[0], place)
    return split


def _has_no_labels(split: "Dataset") -> bool:
    """Whether there are columns of labels, and no cell of them says anything."""
    columns = [name for name in split.column_names if name not in pieces.text_columns(split)]
    return bool(columns) and not any(
        guess.any_labelled(pieces.values(split, name)) for name in columns
    )


def _places(spec: DataSpec, name: str, found: "Found") -> labels.Place:
    """Where the rows of a split stand, to name one that is wrong."""
    if isinstance(found, list):
        return lambda row: files.place(found, row)
    return lambda row: f"{spec.dataset}, split {name}, row {row + 1}"


def _refuse_empty(split: "Dataset", place: labels.Place) -> None:
    for column in pieces.text_columns(split):
        for row, text in enumerate(pieces.values(split, column)):
            if not text or not text.strip():
                raise DataError(f"{place(row)}: there is no text.", "Write one, or delete the row.")


def _cut_by_label(train: "Dataset", spec: DataSpec, seed: int) -> dict[str, "Dataset"]:
    names = train.features["label"].names
    counts = np.bincount(pieces.ids(train), minlength=len(names))
    count, name = min((n, name) for n, name in zip(counts, names, strict=True) if n)
    if count < 2:
        why = f"there is one text only of the label {name!r}."
        raise DataError(f"{_unable(train, spec)}: {why}", _MORE_TEXTS)
    return _cut(train, spec, seed, "label")


def _cut(
    train: "Dataset", spec: DataSpec, seed: int, stratified_by: str | None = None
) -> dict[str, "Dataset"]:
    try:
        cut = train.train_test_split(
            test_size=spec.validation_fraction, seed=seed, stratify_by_column=stratified_by
        )
    except ValueError as error:
        raise DataError(f"{_unable(train, spec)}: {first_line(error)}", _MORE_TEXTS) from error
    return {"train": cut["train"], "validation": cut["test"]}


def _unable(train: "Dataset", spec: DataSpec) -> str:
    return f"No validation split can be set aside from the {len(train):,} texts of {spec.dataset}"


def _unreadable(what: object, error: BaseException, hint: str = "") -> DataError:
    if shortage := of_machine(error):
        raise shortage from error
    error = _bottom(error)
    if configs := re.search(r"available configs: \[(.*)\]", str(error)):
        return DataError(
            f"{what} has several configurations.", f"data.config is one of {configs[1]}."
        )
    return DataError(f"{what} can't be read: {first_line(error)}", hint)


def _bottom(error: BaseException) -> BaseException:
    """`datasets` wraps the reason in its own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
