"""A teacher that is a Python function."""

import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.column_access import get_text_tuples
from kdcli.errors import DataError, RecipeError
from kdcli.recipe.black_box_teachers import FunctionTeacherConfig
from kdcli.teachers.black_box_context import BlackBoxContext, PredictLogits, ProgressCallback
from kdcli.teachers.logit_conversion import convert_to_logits
from kdcli.teachers.permissions import require_code_allowed

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 256


def check_teacher(config: FunctionTeacherConfig, context: BlackBoxContext) -> None:
    """Check that the function exists.

    Raises:
        RecipeError: It doesn't, or the user doesn't allow code.
    """
    require_code_allowed(config, allow_code=context.allow_code)
    _import_function(config.function)


def create_predictor(config: FunctionTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """Import the function, and return a predictor that calls it with 256 texts at a time.

    Raises:
        RecipeError: It isn't allowed, fails, or returns an array of the wrong shape.
    """
    require_code_allowed(config, allow_code=context.allow_code)
    function, labels = _import_function(config.function), list(context.dataset_splits.label_names)

    def predict(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
        texts = get_text_tuples(split)
        logits = np.empty((len(texts), len(labels)), dtype=np.float32)
        for start in range(0, len(texts), _BATCH):
            batch = [text if len(text) > 1 else text[0] for text in texts[start : start + _BATCH]]
            try:
                values = np.asarray(function(batch, labels), dtype=np.float64)
            except Exception as error:
                raise RecipeError(
                    f"teacher.function: {config.function} failed: {type(error).__name__}: {error}"
                ) from error
            if values.shape != (len(batch), len(labels)) or not np.isfinite(values).all():
                raise RecipeError(
                    f"teacher.function: {config.function} returned an array of shape "
                    f"{values.shape} with {np.isfinite(values).sum()} finite values, not "
                    f"({len(batch)}, {len(labels)}): texts by labels, all finite."
                )
            try:
                batch_logits = convert_to_logits(
                    values, config.output_type, context.dataset_splits.task
                )
            except DataError as error:
                raise RecipeError(
                    f"teacher.function: {config.function}: {error.message}", error.hint
                ) from error
            logits[start : start + len(batch)] = batch_logits
            advance(start + len(batch), len(texts))
        return logits

    return predict


def _import_function(reference: str) -> Any:
    # The kd script lies elsewhere: find modules of the working folder as `python -m` does.
    if (working_folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, working_folder)
    try:
        function = resolve_name(reference)
    except Exception as error:
        raise RecipeError(
            f"teacher.function: {reference} can't be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise RecipeError(f"teacher.function: {reference} is not a function.")
    return function
