"""Recipes and sentences without the paths of the machine that a run was made on."""

import re
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from kdcli.recipe import endpoint_urls
from kdcli.recipe.base import FrozenConfig
from kdcli.recipe.black_box_teachers import LLMTeacherConfig
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.sanitize import printable


def remove_local_paths(recipe: Recipe) -> Recipe:
    """Replace each local path of a recipe by its last part."""
    teacher = recipe.teacher
    teacher_update: dict[str, Any] = {}
    if teacher.source_key is not None:
        teacher_update = {teacher.source_key: public_name(getattr(teacher, teacher.source_key))}
    if isinstance(teacher, ClassifierTeacherConfig):
        also = tuple(
            o.model_copy(update={"model": public_name(o.model)}) for o in teacher.ensemble_with
        )
        teacher_update["ensemble_with"] = also
    if isinstance(teacher, LLMTeacherConfig):
        teacher_update = {"url": endpoint_urls.publishable_endpoint_host(teacher.url)}
    parts: dict[str, FrozenConfig] = {
        "data": recipe.data.model_copy(update={
            key: public_name(source) for key in ("dataset", "unlabeled")
            if (source := getattr(recipe.data, key)) is not None
        }),
        "teacher": teacher.model_copy(update=teacher_update),
    }  # fmt: skip
    if recipe.augment is not None and recipe.augment.model is not None:
        model = public_name(recipe.augment.model)
        parts["augment"] = recipe.augment.model_copy(update={"model": model})
    if recipe.student.model is not None:
        model = public_name(recipe.student.model)
        parts["student"] = recipe.student.model_copy(update={"model": model})
    return recipe.model_copy(update=parts)


def remove_local_paths_from_text(recipe: Recipe, text: str) -> str:
    """Replace each local path of a recipe that occurs in a text by its last part."""
    teacher = recipe.teacher
    others = (
        [o.model for o in teacher.ensemble_with]
        if isinstance(teacher, ClassifierTeacherConfig)
        else []
    )
    main = [] if teacher.source_key is None else [getattr(teacher, teacher.source_key)]
    for source in filter(None, (*main, recipe.student.model, *others)):
        text = text.replace(source, public_name(source))
    return text


def is_hub_id(source: str) -> bool:
    """Return whether a source has the form of a Hub id."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def public_name(source: str) -> str:
    """Return a Hub id or package unchanged, and the last part of a path."""
    is_public = is_hub_id(source) or source.startswith("package:")
    return printable(source if is_public else last_path_part(source))


def last_path_part(path: str) -> str:
    """Return the last part of a path, on Windows too."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
