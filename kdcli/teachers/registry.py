"""The kinds of black boxes: what each looks at beforehand, is fitted to, and answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.errors import RecipeError
from kdcli.losses.base import INTERNAL_OUTPUTS, Loss, required_teacher_outputs
from kdcli.progress import ProgressCounter
from kdcli.recipe.black_box_teachers import AnyBlackBoxTeacherConfig, LabelDescriptionTeacherConfig
from kdcli.recipe.data import DataConfig
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import REGRESSION
from kdcli.teachers import embedding_classifier, llm, precomputed, python_function, zero_shot
from kdcli.teachers.base import BlackBoxContext, PredictLogits


@dataclass(frozen=True)
class TeacherBackend:
    """What a black box can do; each takes its part of the recipe and a `Setting`.

    Attributes:
        check_config: Says before anything is done what can't be.
        load_predictor: Loads what answering needs, and gives what answers.
        fit_to_training_texts: Fits it to the training texts, where it has something to fit.
        label_names: The labels that it knows by itself, where the data has none; None where it has to
            be told them.
    """

    check_config: Callable[[Any, BlackBoxContext], None]
    load_predictor: Callable[[Any, BlackBoxContext], PredictLogits]
    fit_to_training_texts: Callable[[Any, BlackBoxContext], None] = lambda spec, setting: None
    label_names: Callable[[Any, DataConfig], tuple[str, ...]] | None = None


def _labels_from_descriptions(
    config: LabelDescriptionTeacherConfig, data_config: DataConfig
) -> tuple[str, ...]:
    return tuple(config.descriptions)


TEACHER_BACKENDS = {
    "precomputed": TeacherBackend(
        precomputed.check_precomputed_teacher,
        precomputed.load_precomputed_teacher,
        label_names=precomputed.label_columns_of_scores_file,
    ),
    "zero_shot": TeacherBackend(
        zero_shot.check_zero_shot_teacher,
        zero_shot.load_zero_shot_teacher,
        label_names=_labels_from_descriptions,
    ),
    "embeddings": TeacherBackend(
        embedding_classifier.check_embedding_teacher,
        embedding_classifier.load_embedding_teacher,
        embedding_classifier.fit_embedding_teacher,
    ),
    "endpoint": TeacherBackend(
        llm.check_llm_teacher, llm.load_llm_teacher, label_names=_labels_from_descriptions
    ),
    "function": TeacherBackend(
        python_function.check_function_teacher, python_function.load_function_teacher
    ),
}


def labels_named_by_teacher(
    config: AnyBlackBoxTeacherConfig, data_config: DataConfig
) -> tuple[str, ...]:
    """The labels that it gives to texts without labels.

    Raises:
        KdError: It knows none by itself, or too few.
    """
    known = TEACHER_BACKENDS[config.kind].label_names
    if known is None:
        raise RecipeError(
            f"data.label is null, and a teacher of kind {config.kind} has its labels from the data.",
            "Name the column of the labels, or take a teacher that knows its own.",
        )
    found = known(config, data_config)
    if len(found) < 2 and data_config.task != REGRESSION.name:
        raise RecipeError(
            "data.label is null, so that the teacher names the labels, and it names fewer than two."
        )
    return found


def check_teacher(
    config: AnyBlackBoxTeacherConfig, context: BlackBoxContext, loss_configs: Sequence[Loss]
) -> None:
    """See that a student can learn from it.

    Raises:
        KdError: It can't: what the teacher needs is missing, or a loss asks for more than answers.
    """
    if live := [
        loss.kind for loss in loss_configs if required_teacher_outputs([loss]) & INTERNAL_OUTPUTS
    ]:
        raise RecipeError(
            f"distill.losses: {live[0]} compares what is inside of two models, and the teacher "
            "gives answers alone.",
            "Use losses of logits, such as soft_targets.",
        )
    labels = context.dataset_splits.label_names
    described = config.descriptions if isinstance(config, LabelDescriptionTeacherConfig) else {}
    if unknown := [label for label in described if label not in labels]:
        raise RecipeError(
            f"teacher.descriptions: the data has no label {unknown[0]!r}: it has {abbreviate_list(labels)}."
        )
    TEACHER_BACKENDS[config.kind].check_config(config, context)


def fit_teacher(config: AnyBlackBoxTeacherConfig, context: BlackBoxContext) -> None:
    """Fit it to the training texts, where it has something to fit."""
    TEACHER_BACKENDS[config.kind].fit_to_training_texts(config, context)


def predict_teacher_logits(
    config: AnyBlackBoxTeacherConfig, context: BlackBoxContext, split_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Its logits for the texts of some splits, (texts, labels) each.

    Raises:
        KdError: It can't answer, and what to do about it.
    """
    splits = {part: context.dataset_splits.splits[part] for part in split_names}
    advance = ProgressCounter(context.reporter, sum(map(len, splits.values())))

    def tell(rows: int) -> Callable[[int, int], None]:
        # An answer may stand for several texts, or several for one.
        return lambda done, total: advance(rows * done // total, rows)

    ask = TEACHER_BACKENDS[config.kind].load_predictor(config, context)
    return {part: ask(split, tell(len(split))) for part, split in splits.items()}
