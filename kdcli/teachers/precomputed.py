"""A teacher whose outputs were computed beforehand and lie in a file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.column_access import get_text_tuples
from kdcli.data.readers import data_files, registry
from kdcli.errors import DataError
from kdcli.recipe.black_box_teachers import PrecomputedTeacherConfig
from kdcli.recipe.data import DataConfig
from kdcli.teachers.black_box_context import BlackBoxContext, PredictLogits, ProgressCallback
from kdcli.teachers.logit_conversion import convert_to_logits

if TYPE_CHECKING:
    from datasets import Dataset

_MAX_SHOWN_CHARACTERS = 60


def label_columns_of_scores_file(
    config: PrecomputedTeacherConfig, data_config: DataConfig
) -> tuple[str, ...]:
    """Return the file's columns that are not texts.

    Raises:
        DataError: The file can't be read.
    """
    texts = data_config.text_columns
    columns = [
        column
        for row in data_files.read_first_rows([_require_scores_file(config)], 1)
        for column in row
    ]
    return tuple(column for column in columns if column not in texts)


def check_teacher(config: PrecomputedTeacherConfig, context: BlackBoxContext) -> None:
    """Check that the file has valid scores for every text that the student learns from.

    Raises:
        DataError: It doesn't.
    """
    logits = create_predictor(config, context)
    for part in {"train", "validation", "transfer"} & context.dataset_splits.splits.keys():
        logits(context.dataset_splits.splits[part], lambda done, total: None)


def create_predictor(config: PrecomputedTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """Read the file, and return a predictor that looks up each text's logits.

    Raises:
        DataError: The file can't be used, or has no scores for a text.
    """
    scores = _read_logits_by_text(config, context)

    def logits(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
        found = np.empty((len(split), len(context.dataset_splits.label_names)), dtype=np.float32)
        for row, text in enumerate(get_text_tuples(split)):
            if text not in scores:
                raise DataError(
                    f"{config.file} has no scores for the text {_abbreviate_text(text)}.",
                    "Add a row: every text of train, validation and test needs one.",
                )
            found[row] = scores[text]
        advance(len(split), len(split))
        return found

    return logits


def _read_logits_by_text(
    config: PrecomputedTeacherConfig, context: BlackBoxContext
) -> dict[tuple[str, ...], np.ndarray]:
    path, labels = _require_scores_file(config), context.dataset_splits.label_names
    texts = context.data_config.text_columns
    table = data_files.read_text_and_label_columns([path], texts, labels)
    values = np.empty((len(table), len(labels)))
    for column, label in enumerate(labels):
        for row, cell in enumerate(table[label]):
            values[row, column] = _parse_score(cell, label, path, row)
    try:
        logits = convert_to_logits(values, config.output_type, context.dataset_splits.task)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from error
    logits_by_text: dict[tuple[str, ...], np.ndarray] = {}
    for row, text in enumerate(zip(*(table[name] for name in texts), strict=True)):
        before = logits_by_text.setdefault(text, logits[row])
        if not np.array_equal(before, logits[row]):
            raise DataError(
                f"{data_files.describe_row_location([path], row)}: the text "
                f"{_abbreviate_text(text)} has other scores in an earlier row.",
                "Keep one of the rows.",
            )
    return logits_by_text


def _require_scores_file(config: PrecomputedTeacherConfig) -> Path:
    path = Path(config.file)
    if not path.is_file() or registry.file_format(path) is None:
        raise DataError(
            f"teacher.file: there is no file {path} of scores.",
            f"Supported formats: {registry.describe_supported_formats()}",
        )
    return path


def _parse_score(cell: object, label_name: str, path: Path, row: int) -> float:
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise DataError(
            f"{data_files.describe_row_location([path], row)}: {label_name} is {cell!r}, "
            "not a number."
        )
    return value


def _abbreviate_text(text: tuple[str, ...]) -> str:
    joined = " / ".join(text)
    return repr(
        joined if len(joined) <= _MAX_SHOWN_CHARACTERS else f"{joined[:_MAX_SHOWN_CHARACTERS]}…"
    )
