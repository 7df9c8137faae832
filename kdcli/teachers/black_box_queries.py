"""Query a recipe's black-box teacher for its labels and logits, and check it first."""

from collections.abc import Callable, Sequence

import numpy as np

from kdcli.errors import RecipeError
from kdcli.losses.base import INTERNAL_OUTPUTS, Loss, required_teacher_outputs
from kdcli.progress import StageProgress
from kdcli.recipe.black_box_teachers import BlackBoxTeacher, LabelDescriptionTeacherConfig
from kdcli.recipe.data import DataConfig
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import REGRESSION
from kdcli.teachers.black_box_context import BlackBoxContext


def labels_named_by_teacher(config: BlackBoxTeacher, data_config: DataConfig) -> tuple[str, ...]:
    """Return the labels that the teacher assigns to data without labels.

    Raises:
        KdError: It has no labels of its own, or fewer than two.
    """
    names = config.label_names(data_config)
    if names is None:
        raise RecipeError(
            f"data.label is null, but a teacher of kind {config.kind} needs the data's labels.",
            "Name the label column, or choose a teacher that has labels of its own.",
        )
    if len(names) < 2 and data_config.task != REGRESSION.name:
        raise RecipeError("data.label is null, and the teacher has fewer than two labels.")
    return names


def check_teacher(
    config: BlackBoxTeacher, context: BlackBoxContext, loss_configs: Sequence[Loss]
) -> None:
    """Check that the student can learn from the teacher.

    Raises:
        KdError: The teacher's needs aren't met, or a loss needs more than predictions.
    """
    if live := [
        loss.kind for loss in loss_configs if required_teacher_outputs([loss]) & INTERNAL_OUTPUTS
    ]:
        raise RecipeError(
            f"distill.losses: {live[0]} compares what is inside of two models, and the teacher "
            "gives predictions alone.",
            "Use losses of logits, such as soft_targets.",
        )
    labels = context.dataset_splits.label_names
    described = config.descriptions if isinstance(config, LabelDescriptionTeacherConfig) else {}
    if unknown := [label for label in described if label not in labels]:
        raise RecipeError(
            f"teacher.descriptions: the data has no label {unknown[0]!r}.",
            f"Its labels: {abbreviate_list(labels)}.",
        )
    config.check(context)


def predict_teacher_logits(
    config: BlackBoxTeacher, context: BlackBoxContext, split_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the teacher's logits for some splits, (texts, labels) each.

    Raises:
        KdError: It can't predict.
    """
    splits = {part: context.dataset_splits.splits[part] for part in split_names}
    advance = StageProgress(context.reporter, sum(map(len, splits.values())))

    def split_callback(rows: int) -> Callable[[int, int], None]:
        # One response may serve several texts, or several responses one text.
        return lambda done, total: advance(rows * done // total, rows)

    predict = config.create_predictor(context)
    return {part: predict(split, split_callback(len(split))) for part, split in splits.items()}
