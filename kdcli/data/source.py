"""From a Hub id, a file or a folder to named splits of texts and labels."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import hub
from kdcli.data import labels
from kdcli.errors import DataError
from kdcli.recipe.schema import DataSpec
from kdcli.run import file_digest

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_FILES: dict[str, tuple[str, dict[str, Any]]] = {
    # An empty cell or the word "null" is text, not a missing value.
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}
_PARTS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
_OLD_NAMES = {"clinc_oos": "clinc/clinc_oos"}


@dataclass(frozen=True)
class Corpus:
    """A data set ready for use.

    Attributes:
        splits: `train`, `validation` and `test`, as far as they are there; each with the columns
            `text`, `text_pair` where the task is on pairs, and `label` (ClassLabel).
        labels: The labels' names, in the order of their ids.
        notes: What was decided on the way that the user should know.
    """

    splits: dict[str, "Dataset"]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def present(self, split: str) -> list[str]:
        """The names of the labels that occur in `split`."""
        return [self.labels[i] for i in sorted(self.splits[split].unique("label"))]


def identity(spec: DataSpec) -> str:
    """What the data is, for the key of what is made from it; nothing is downloaded.

    Files are known by their content, a Hub data set by id and revision (pin a commit where a
    moving branch matters).
    """
    path = Path(spec.dataset).expanduser()
    if not path.exists():
        return f"hub:{spec.dataset}@{spec.revision or 'main'}"
    digest = hashlib.sha256(path.suffix.encode())
    for file in sorted(_content(path)):
        digest.update(f"{file.relative_to(path)}:{file_digest(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def load(spec: DataSpec, seed: int, *, to_train: bool = True) -> Corpus:
    """Load the data set of a recipe.

    Args:
        spec: Names the data set, its columns and its splits.
        seed: Of the cut, where a validation split has to be set aside.
        to_train: Whether there must be a train split, of two classes at least, and a validation
            split, set aside from it where there is none; to measure on, any split will do.

    Raises:
        DataError: The data set, a split, a column or a label is missing or unusable.
        HubError: The Hub can't be reached.
    """
    notes: list[str] = []
    found = _read(spec, notes)
    splits = {part: found[name] for part, name in _parts(spec, found)}
    if to_train and "train" not in splits:
        raise DataError(f"There is no split {spec.splits.train} to train on in {spec.dataset}.")
    if not splits:
        raise DataError(
            f"There is no split train, validation or test in {spec.dataset}; "
            f"there is {', '.join(found)}.",
            "Say which is which: data.splits.",
        )
    for part, split in splits.items():
        splits[part] = _columns(spec, part, split)
    splits = labels.name_labels(splits, "label")
    names = tuple(next(iter(splits.values())).features["label"].names)
    if to_train and len(present := splits["train"].unique("label")) < 2:
        raise DataError(f"Column {spec.label} holds one class only ({names[present[0]]}).")
    if to_train and "validation" not in splits:
        splits |= _set_aside(splits["train"], spec.validation_fraction, seed)
        notes.append(
            f"There is no validation split: {len(splits['validation']):,} of the "
            f"{len(splits['train']) + len(splits['validation']):,} training texts were set aside "
            f"(stratified by label, seed {seed})."
        )
    return Corpus(splits, names, tuple(notes))


def _read(spec: DataSpec, notes: list[str]) -> "DatasetDict":
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    path = Path(spec.dataset).expanduser()
    if not path.exists():
        return _read_from_hub(spec, notes)
    try:
        if path.is_file():
            builder, options = _format(path)
            return load_dataset(builder, data_files={"train": str(path)}, **options)
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = load_from_disk(str(path))
            return DatasetDict({"train": loaded}) if isinstance(loaded, Dataset) else loaded
        return _read_folder(path, spec, notes)
    except DataError:
        raise
    except Exception as error:
        if "corresponds to no data" in str(error):
            raise DataError(f"{path} is empty: it holds no rows.") from error
        raise DataError(f"{path} can't be read: {_cause(error)}") from error


def _read_folder(path: Path, spec: DataSpec, notes: list[str]) -> "DatasetDict":
    from datasets import get_dataset_config_names, load_dataset

    if spec.config is not None:
        if spec.config in get_dataset_config_names(str(path)):
            return load_dataset(str(path), spec.config)
        notes.append(f"data.config {spec.config} is left aside: the folder {path} has no such one.")
    # `datasets` goes by the commonest kind as well.
    kinds = Counter(file.suffix for file in path.rglob("*") if file.suffix in _FILES)
    options = _FILES[kinds.most_common(1)[0][0]][1] if kinds else {}
    return load_dataset(str(path), **options)


def _read_from_hub(spec: DataSpec, notes: list[str]) -> "DatasetDict":
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name = _OLD_NAMES.get(spec.dataset, spec.dataset)
    if name != spec.dataset:
        notes.append(f"The data set {spec.dataset} is called {name} now.")
    if Path(name).suffix in _FILES or name.count("/") != 1:
        raise DataError(
            f"There is no data set {name}: no such file or folder, and a Hub id is OWNER/NAME."
        )
    with hub.errors(f"the data set {name}"):
        try:
            return load_dataset(name, spec.config, revision=spec.revision)
        except DatasetNotFoundError as error:
            raise DataError(
                f"There is no data set {name}: no such file or folder here, and none on the Hub "
                "that you may see."
            ) from error
        except (ValueError, RuntimeError) as error:
            raise DataError(f"The data set {name} can't be loaded: {_cause(error)}") from error


def _parts(spec: DataSpec, found: "DatasetDict") -> Iterator[tuple[str, str]]:
    """Which of the splits found plays which part, as (part, split) pairs."""
    for part, usual in _PARTS.items():
        wanted = getattr(spec.splits, part)
        if wanted is None:
            wanted = next((name for name in usual if name in found), None)
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


def _columns(spec: DataSpec, part: str, split: "Dataset") -> "Dataset":
    texts = (spec.text,) if isinstance(spec.text, str) else spec.text
    wanted = dict(zip(("text", "text_pair"), texts, strict=False)) | {"label": spec.label}
    for standard, column in wanted.items():
        if column not in split.column_names:
            key = "label" if standard == "label" else "text"
            raise DataError(
                f"data.{key}: there is no column {column} in split {part} of {spec.dataset}.",
                f"Its columns: {', '.join(split.column_names)}.",
            )
    if len(set(wanted.values())) < len(wanted):
        raise DataError(
            f"Text and label are columns of their own, not {', '.join(wanted.values())}."
        )
    split = split.select_columns(list(wanted.values()))
    # All at once: a pair may be [title, text], and title becomes text.
    split = split.rename_columns({column: standard for standard, column in wanted.items()})
    for standard, column in wanted.items():
        if standard != "label":
            _refuse_empty(split, standard, column, part)
    return split


def _refuse_empty(split: "Dataset", standard: str, column: str, part: str) -> None:
    if getattr(split.features[standard], "dtype", "list") not in ("string", "large_string"):
        raise DataError(f"Column {column} of split {part} doesn't hold text.")
    for row, text in enumerate(split[standard], start=1):
        if not text or not text.strip():
            raise DataError(f"Row {row} of split {part} has no text (column {column}).")


def _set_aside(train: "Dataset", fraction: float, seed: int) -> dict[str, "Dataset"]:
    try:
        cut = train.train_test_split(test_size=fraction, seed=seed, stratify_by_column="label")
    except ValueError as error:
        raise DataError(
            f"No validation split can be set aside from {len(train)} texts: {_cause(error)}",
            "Give more texts of each label, a larger data.validation_fraction, or a split of "
            "your own (data.splits.validation).",
        ) from error
    return {"train": cut["train"], "validation": cut["test"]}


def _format(path: Path) -> tuple[str, dict[str, Any]]:
    if path.suffix not in _FILES:
        raise DataError(f"{path} is of no known kind.", f"Known: {', '.join(_FILES)}.")
    return _FILES[path.suffix]


def _content(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _cause(error: BaseException) -> str:
    """The first line of what lies at the bottom: `datasets` wraps the reason in its own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:300] + "."
