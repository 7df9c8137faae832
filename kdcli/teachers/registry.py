"""The kinds of black boxes: what each looks at beforehand, is fitted to, and answers."""

from collections.abc import Callable, Sequence

import numpy as np

from kdcli.errors import RecipeError
from kdcli.losses.base import INTERNAL_OUTPUTS, Loss, required_teacher_outputs
from kdcli.progress import ProgressCounter
from kdcli.recipe.black_box_teachers import BlackBoxTeacher, LabelDescriptionTeacherConfig
from kdcli.recipe.data import DataConfig
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import REGRESSION
from kdcli.teachers.base import BlackBoxContext


def labels_named_by_teacher(config: BlackBoxTeacher, data_config: DataConfig) -> tuple[str, ...]:
    """The labels that it gives to texts without labels.

    Raises:
        KdError: It knows none by itself, or too few.
    """
    names = config.label_names(data_config)
    if names is None:
        raise RecipeError(
            f"data.label is null, and a teacher of kind {config.kind} has its labels from the data.",
            "Name the column of the labels, or take a teacher that knows its own.",
        )
    if len(names) < 2 and data_config.task != REGRESSION.name:
        raise RecipeError(
            "data.label is null, so that the teacher names the labels, and it names fewer than two."
        )
    return names


def check_teacher(
    config: BlackBoxTeacher, context: BlackBoxContext, loss_configs: Sequence[Loss]
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
    config.check(context)


def fit_teacher(config: BlackBoxTeacher, context: BlackBoxContext) -> None:
    """Fit it to the training texts, where it has something to fit."""
    config.fit(context)


def predict_teacher_logits(
    config: BlackBoxTeacher, context: BlackBoxContext, split_names: Sequence[str]
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

    ask = config.load_predictor(context)
    return {part: ask(split, tell(len(split))) for part, split in splits.items()}
