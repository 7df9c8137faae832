"""Validate configs, and describe the most telling mistake in plain words."""

import difflib
import re
from collections.abc import Sequence
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
    """A mistake in a config.

    Attributes:
        key_path: The key that is wrong.
        message: The rest of a sentence that begins with the key.
        hint: A way to fix it, if one is known.
    """

    key_path: KeyPath
    message: str
    hint: str = ""


def validate_config(raw_values: Any, config_class: type[ConfigT]) -> ConfigT | ValidationMistake:
    """Validate raw values, and return the config or its most telling mistake.

    Args:
        raw_values: Scalars, lists and mappings.
        config_class: The config that they should be.
    """
    try:
        config = config_class.model_validate(raw_values)
    except ValidationError as error:
        return _most_telling_mistake(error, raw_values)
    misused = _find_bool_used_as_number(raw_values, config.model_dump())
    return config if misused is None else ValidationMistake(misused, "can't be true or false")


def _find_bool_used_as_number(
    raw_value: Any, parsed_value: Any, path: KeyPath = ()
) -> KeyPath | None:
    """Return the first key whose boolean was read as a number: to pydantic, true is 1."""
    if isinstance(raw_value, bool):
        return None if isinstance(parsed_value, bool) else path
    items: Any = raw_value.items() if isinstance(raw_value, dict) else ()
    items = enumerate(raw_value) if isinstance(raw_value, list) else items
    misused = (
        _find_bool_used_as_number(value, parsed_value[key], (*path, key)) for key, value in items
    )
    return next((key_path for key_path in misused if key_path is not None), None)


def _most_telling_mistake(error: ValidationError, raw_values: Any) -> ValidationMistake:
    problems = error.errors(include_url=False)
    mistakes = [(_error_key_path(raw_values, problem), problem) for problem in problems]
    # Pydantic leaves a faulty item out and then finds the list too short: no second mistake.
    mistakes = [m for m in mistakes if not any(_is_nested_below(o[0], m[0]) for o in mistakes)]
    path, problem = min(mistakes, key=lambda mistake: _error_priority(mistake[1]))
    others = len({path for path, _ in mistakes}) - 1
    more = f" (and {others} more)" if others else ""
    return ValidationMistake(path, f"{_describe_error(problem)}{more}", _suggest_fix(problem, path))


def _error_priority(error: ErrorDetails) -> int:
    """Return the rank of an error: the most telling is 0."""
    # A misspelt key is often reported as a missing one too.
    if error["type"] == "extra_forbidden":
        return 0
    # If a key takes text or a list, pydantic always reports a wrong type for one of them.
    return 2 if error["type"].endswith("_type") else 1


def _is_nested_below(key_path: KeyPath, parent: KeyPath) -> bool:
    return len(key_path) > len(parent) and key_path[: len(parent)] == parent


def _error_key_path(raw_values: Any, error: ErrorDetails) -> KeyPath:
    """Return the error's key path, without the union tags that pydantic inserts."""
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
        return _describe_wrong_kind(error)
    if kind == "string_pattern_mismatch":
        return (
            "must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', "
            f"not {_format_value(given)}"
        )
    return f"must {_describe_expectation(error)}, not {_format_value(given)}"


def _describe_wrong_kind(error: ErrorDetails) -> str:
    if error["type"] == "union_tag_invalid":
        return f"has an unknown kind: {_format_value(error['ctx']['tag'])}"
    return f"must have a kind: one of {', '.join(_known_kinds(error))}"


def _known_kinds(error: ErrorDetails) -> Sequence[str]:
    return teacher_kinds() if error["loc"] == ("teacher",) else loss_kinds()


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
    """Return a value roughly as YAML writes it, shortened."""
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
    if error["type"] == "union_tag_invalid":
        return _did_you_mean(str(error["ctx"]["tag"]), _known_kinds(error))
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        return "Quote it to make it text."
    return ""


def _known_keys(path: KeyPath) -> list[str]:
    """List the keys that a recipe may have at `path`."""
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


def find_recipe_keys(name: str) -> list[str]:
    """List the dotted keys of a recipe whose last part is `name`, those of `distill` first."""
    sections = ((), ("distill",), ("student",), ("data",), ("evaluate",), ("teacher",))
    return [".".join((*path, name)) for path in sections if name in _known_keys(path)]


def _union_members(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


def _did_you_mean(word: str, known_words: Any) -> str:
    close = difflib.get_close_matches(word, list(known_words), n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known here: {', '.join(known_words)}." if known_words else ""
