"""What is wrong with a recipe: one mistake, in a person's words."""

import difflib
import re
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from kdcli.losses import AnyLoss, loss_kinds
from kdcli.recipe.base import FrozenConfig
from kdcli.recipe.schema import Recipe
from kdcli.recipe.strict_yaml import KeyPath
from kdcli.recipe.teacher import TEACHER_CONFIGS, ClassifierTeacherConfig, teacher_kinds

# Names of transformers.TrainingArguments that kd calls something else, and no spelling is close to.
_TRAINING_ARGUMENTS = {
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "lr_scheduler_type": "schedule",
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "adam_epsilon": "epsilon",
    "label_smoothing_factor": "label_smoothing",
    "warmup_steps": "warmup_ratio",
    "load_best_model_at_end": "keep_checkpoint",
}

ConfigT = TypeVar("ConfigT", bound=FrozenConfig)


@dataclass(frozen=True)
class ValidationMistake:
    """What is wrong, where: the rest of a sentence that the key begins, and the way out."""

    key_path: KeyPath
    message: str
    hint: str = ""


def validate_config(raw_values: Any, config_class: type[ConfigT]) -> ConfigT | ValidationMistake:
    """What was written as a spec, or the mistake that says most.

    Args:
        raw_values: Scalars, lists and mappings.
        config_class: The spec that it should be.
    """
    try:
        spec = config_class.model_validate(raw_values)
    except ValidationError as error:
        return _most_telling_mistake(error, raw_values)
    truth = _find_bool_used_as_number(raw_values, spec.model_dump())
    return spec if truth is None else ValidationMistake(truth, "can't be true or false")


def _find_bool_used_as_number(
    raw_value: Any, parsed_value: Any, path: KeyPath = ()
) -> KeyPath | None:
    """Where a yes or a no was taken for a number: to pydantic, true is 1."""
    if isinstance(raw_value, bool):
        return None if isinstance(parsed_value, bool) else path
    items: Any = raw_value.items() if isinstance(raw_value, dict) else ()
    items = enumerate(raw_value) if isinstance(raw_value, list) else items
    found = (
        _find_bool_used_as_number(value, parsed_value[key], (*path, key)) for key, value in items
    )
    return next((place for place in found if place is not None), None)


def _most_telling_mistake(error: ValidationError, raw_values: Any) -> ValidationMistake:
    problems = error.errors(include_url=False)
    places = [(_error_key_path(raw_values, problem), problem) for problem in problems]
    # Pydantic leaves a faulty item out, and then finds the list too short: not a second mistake.
    places = [p for p in places if not any(_is_nested_below(other[0], p[0]) for other in places)]
    path, problem = min(places, key=lambda place: _error_priority(place[1]))
    others = len({path for path, _ in places}) - 1
    more = f" (and {others} more)" if others else ""
    return ValidationMistake(path, f"{_describe_error(problem)}{more}", _suggest_fix(problem, path))


def _error_priority(error: ErrorDetails) -> int:
    """What says most comes first."""
    # A misspelt key mostly shows as a missing one as well.
    if error["type"] == "extra_forbidden":
        return 0
    # Where a key takes text or a list, one of the two is always of the wrong kind.
    return 2 if error["type"].endswith("_type") else 1


def _is_nested_below(one: KeyPath, other: KeyPath) -> bool:
    return len(one) > len(other) and one[: len(other)] == other


def _error_key_path(raw_values: Any, error: ErrorDetails) -> KeyPath:
    """The problem's place without what pydantic puts in of its own: a union's tag, or its arm."""
    path: list[str | int] = []
    loc = error["loc"]
    for i, part in enumerate(loc):
        missing = error["type"] == "missing" and i == len(loc) - 1
        if isinstance(raw_values, dict) and (part in raw_values or missing):
            path.append(part)
            raw_values = raw_values.get(str(part))
        elif isinstance(raw_values, list) and isinstance(part, int) and part < len(raw_values):
            path.append(part)
            raw_values = raw_values[part]
    return tuple(path)


def _describe_error(error: ErrorDetails) -> str:
    given, kind, context = error["input"], error["type"], error.get("ctx", {})
    if kind in ("extra_forbidden", "invalid_key"):
        return "is not a key that a recipe knows"
    if kind == "missing":
        short = isinstance(given, list)
        return (
            f"has too few items: {_format_value(given)}"
            if short
            else "is missing, and has no default"
        )
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = teacher_kinds() if error["loc"] == ("teacher",) else loss_kinds()
        return f"must have a kind: one of {', '.join(kinds)}"
    if kind == "string_pattern_mismatch":
        return f"must be letters, digits, '.', '_' and '-', and begin with one, not {_format_value(given)}"
    return f"must {_describe_expectation(error)}, not {_format_value(given)}"


def _describe_expectation(error: ErrorDetails) -> str:
    if error["type"] in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return "be keys and their values"
    if error["type"] == "tuple_type":
        return "be a list"
    if error["type"] == "int_parsing_size":
        return "be a number of fewer digits"
    # Pydantic says "Input should be …", "String should have …", "… after validation, not 0".
    return re.split(", unable|, got| after", error["msg"].partition(" should ")[2])[0]


def _format_value(value: Any) -> str:
    """A value as it is written in YAML, more or less, and not at length."""
    if isinstance(value, dict):
        return "a mapping"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = "null" if value is None else text
    return text if len(text) <= 80 else f"{text[:79]}…"


def _suggest_fix(error: ErrorDetails, path: KeyPath) -> str:
    if error["type"] == "extra_forbidden":
        key, known = str(path[-1]), _known_keys(path[:-1])
        translated = _TRAINING_ARGUMENTS.get(key)
        if translated in known:
            return f"kd calls it {translated}."
        return _did_you_mean(key, known)
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        return "Quotes make text of it."
    return ""


def _known_keys(path: KeyPath) -> list[str]:
    """The keys that a recipe may have at `path`."""
    if path == ("teacher",):
        return sorted({key for config in TEACHER_CONFIGS.values() for key in config.model_fields})
    inside = path[:1] == ("teacher",)
    model: type[BaseModel] | None = ClassifierTeacherConfig if inside else Recipe
    for part in (part for part in path[inside:] if isinstance(part, str)):
        if part == "losses":
            schemas = TypeAdapter(AnyLoss).json_schema()["$defs"].values()
            return sorted({key for schema in schemas for key in schema["properties"]})
        assert model is not None
        model = next(
            (t for t in _union_members(model.model_fields[part].annotation)
             if isinstance(t, type) and issubclass(t, BaseModel)),
            None,
        )  # fmt: skip
        if model is None:
            return []
    return list(model.model_fields) if model else []


def _union_members(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


def _did_you_mean(word: str, known_words: Any) -> str:
    close = difflib.get_close_matches(word, list(known_words), n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known here: {', '.join(known_words)}." if known_words else ""
