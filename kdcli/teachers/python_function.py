"""A teacher that is a Python function."""

import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.column_access import get_text_tuples
from kdcli.errors import DataError, RecipeError
from kdcli.recipe.black_box_teachers import FunctionTeacherConfig
from kdcli.teachers.base import BlackBoxContext, PredictLogits, ProgressCallback, convert_to_logits
from kdcli.teachers.permissions import require_code_allowed

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 256


def check_teacher(config: FunctionTeacherConfig, context: BlackBoxContext) -> None:
    """See that the function is there.

    Raises:
        RecipeError: It isn't, or the user doesn't allow code.
    """
    require_code_allowed(config, allow_code=context.allow_code)
    _import_function(config.function)


def load_predictor(config: FunctionTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """Import the function: what it gives for the texts, 256 at a time, as logits, (texts, labels).

    Raises:
        RecipeError: It isn't allowed, can't be imported, fails, or gives something else.
    """
    require_code_allowed(config, allow_code=context.allow_code)
    function, labels = _import_function(config.function), list(context.dataset_splits.label_names)

    def logits(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
        texts = get_text_tuples(split)
        found = np.empty((len(texts), len(labels)), dtype=np.float32)
        for start in range(0, len(texts), _BATCH):
            asked = [text if len(text) > 1 else text[0] for text in texts[start : start + _BATCH]]
            try:
                values = np.asarray(function(asked, labels), dtype=np.float64)
            except Exception as error:
                raise RecipeError(
                    f"teacher.function: {config.function} failed: {type(error).__name__}: {error}"
                ) from error
            if values.shape != (len(asked), len(labels)) or not np.isfinite(values).all():
                raise RecipeError(
                    f"teacher.function: {config.function} gave an array of the shape {values.shape}, "
                    f"not {len(asked)} texts by {len(labels)} labels, or values that are no "
                    "numbers."
                )
            try:
                told = convert_to_logits(values, config.output_type, context.dataset_splits.task)
            except DataError as error:
                raise RecipeError(
                    f"teacher.function: {config.function}: {error.message}", error.hint
                ) from error
            found[start : start + len(asked)] = told
            advance(start + len(asked), len(texts))
        return found

    return logits


def _import_function(reference: str) -> Any:
    # The command lies elsewhere: modules of the working folder are found as by `python -m`.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        function = resolve_name(reference)
    except Exception as error:
        raise RecipeError(
            f"teacher.function: {reference} can't be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise RecipeError(f"teacher.function: {reference} is no function.")
    return function
