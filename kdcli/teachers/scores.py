"""A teacher whose scores lie in a file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data import files
from kdcli.errors import DataError
from kdcli.evaluation.passes import texts_of
from kdcli.recipe.black_box import ScoresSpec
from kdcli.recipe.data import DataSpec
from kdcli.teachers.asked import Advance, Asking, Setting, as_logits

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 60


def labels(spec: ScoresSpec, data: DataSpec) -> tuple[str, ...]:
    """The file's columns that aren't texts.

    Raises:
        DataError: The file can't be read.
    """
    texts = (data.text,) if isinstance(data.text, str) else data.text
    columns = [column for row in files.head([_file(spec)], 1) for column in row]
    return tuple(column for column in columns if column not in texts)


def check(spec: ScoresSpec, setting: Setting) -> None:
    """See that the file has sound scores for every text that the student learns from.

    Raises:
        DataError: It hasn't.
    """
    logits = opened(spec, setting)
    for part in {"train", "validation", "transfer"} & setting.corpus.splits.keys():
        logits(setting.corpus.splits[part], lambda done, total: None)


def opened(spec: ScoresSpec, setting: Setting) -> Asking:
    """Read the file: each text's scores as logits.

    Raises:
        DataError: The file can't be used, or has no scores for a text.
    """
    scores = _read(spec, setting)

    def logits(split: "Dataset", advance: Advance) -> np.ndarray:
        found = np.empty((len(split), len(setting.corpus.labels)), dtype=np.float32)
        for row, text in enumerate(texts_of(split)):
            if text not in scores:
                raise DataError(
                    f"{spec.file} has no scores for the text {_short(text)}.",
                    "Add a row for it: every text of train, validation and test needs one.",
                )
            found[row] = scores[text]
        advance(len(split), len(split))
        return found

    return logits


def _read(spec: ScoresSpec, setting: Setting) -> dict[tuple[str, ...], np.ndarray]:
    path, labels = _file(spec), setting.corpus.labels
    texts = (setting.data.text,) if isinstance(setting.data.text, str) else setting.data.text
    table = files.read([path], texts, labels)
    values = np.empty((len(table), len(labels)))
    for place, label in enumerate(labels):
        for row, cell in enumerate(table[label]):
            values[row, place] = _number(cell, label, path, row)
    try:
        logits = as_logits(values, spec.gives, setting.corpus.task)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from error
    found: dict[tuple[str, ...], np.ndarray] = {}
    for row, text in enumerate(zip(*(table[name] for name in texts), strict=True)):
        before = found.setdefault(text, logits[row])
        if not np.array_equal(before, logits[row]):
            raise DataError(
                f"{files.place([path], row)}: the text {_short(text)} was there before, with other "
                "scores.",
                "Leave one of the rows.",
            )
    return found


def _file(spec: ScoresSpec) -> Path:
    path = Path(spec.file)
    if not path.is_file() or files.kind(path) is None:
        raise DataError(
            f"teacher.file: there is no file {path} of scores.", f"Known: {files.KNOWN}"
        )
    return path


def _number(cell: object, label: str, path: Path, row: int) -> float:
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise DataError(f"{files.place([path], row)}: {label} is {cell!r}, not a number.")
    return value


def _short(text: tuple[str, ...]) -> str:
    whole = " / ".join(text)
    return repr(whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}…")
