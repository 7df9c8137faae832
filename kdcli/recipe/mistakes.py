"""What is wrong with a recipe: one mistake, in a person's words."""

import difflib
import re
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from kdcli.recipe.base import Spec
from kdcli.recipe.losses import LOSS_KINDS, Loss
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import TEACHER_KINDS, TEACHERS, TeacherSpec
from kdcli.recipe.yaml import Path

SpecT = TypeVar("SpecT", bound=Spec)


@dataclass(frozen=True)
class Mistake:
    """What is wrong, where: the rest of a sentence that the key begins, and the way out."""

    path: Path
    sentence: str
    hint: str = ""


def check(written: Any, model: type[SpecT]) -> SpecT | Mistake:
    """What was written as a spec, or the mistake that says most.

    Args:
        written: Scalars, lists and mappings.
        model: The spec that it should be.
    """
    try:
        spec = model.model_validate(written)
    except ValidationError as error:
        return _first(error, written)
    truth = _truth(written, spec.model_dump())
    return spec if truth is None else Mistake(truth, "can't be true or false")


def _truth(written: Any, understood: Any, path: Path = ()) -> Path | None:
    """Where a yes or a no was taken for a number: to pydantic, true is 1."""
    if isinstance(written, bool):
        return None if isinstance(understood, bool) else path
    items: Any = written.items() if isinstance(written, dict) else ()
    items = enumerate(written) if isinstance(written, list) else items
    found = (_truth(value, understood[key], (*path, key)) for key, value in items)
    return next((place for place in found if place is not None), None)


def _first(error: ValidationError, written: Any) -> Mistake:
    problems = error.errors(include_url=False)
    places = [(_written_path(written, problem), problem) for problem in problems]
    # Pydantic leaves a faulty item out, and then finds the list too short: not a second mistake.
    places = [p for p in places if not any(_below(other[0], p[0]) for other in places)]
    path, problem = min(places, key=lambda place: _rank(place[1]))
    others = len({path for path, _ in places}) - 1
    more = f" (and {others} more)" if others else ""
    return Mistake(path, f"{_phrase(problem)}{more}", _hint(problem, path))


def _rank(problem: ErrorDetails) -> int:
    """What says most comes first."""
    # A misspelt key mostly shows as a missing one as well.
    if problem["type"] == "extra_forbidden":
        return 0
    # Where a key takes text or a list, one of the two is always of the wrong kind.
    return 2 if problem["type"].endswith("_type") else 1


def _below(one: Path, other: Path) -> bool:
    return len(one) > len(other) and one[: len(other)] == other


def _written_path(value: Any, problem: ErrorDetails) -> Path:
    """The problem's place without what pydantic puts in of its own: a union's tag, or its arm."""
    path: list[str | int] = []
    loc = problem["loc"]
    for i, part in enumerate(loc):
        missing = problem["type"] == "missing" and i == len(loc) - 1
        if isinstance(value, dict) and (part in value or missing):
            path.append(part)
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)


def _phrase(problem: ErrorDetails) -> str:
    given, kind, context = problem["input"], problem["type"], problem.get("ctx", {})
    if kind in ("extra_forbidden", "invalid_key"):
        return "is not a key that a recipe knows"
    if kind == "missing":
        short = isinstance(given, list)
        return f"has too few items: {_shown(given)}" if short else "is missing, and has no default"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = TEACHER_KINDS if problem["loc"] == ("teacher",) else LOSS_KINDS
        return f"must have a kind: one of {', '.join(kinds)}"
    if kind == "string_pattern_mismatch":
        return f"must be letters, digits, '.', '_' and '-', and begin with one, not {_shown(given)}"
    return f"must {_expectation(problem)}, not {_shown(given)}"


def _expectation(problem: ErrorDetails) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return "be keys and their values"
    if problem["type"] == "tuple_type":
        return "be a list"
    if problem["type"] == "int_parsing_size":
        return "be a number of fewer digits"
    # Pydantic says "Input should be …", "String should have …", "… after validation, not 0".
    return re.split(", unable|, got| after", problem["msg"].partition(" should ")[2])[0]


def _shown(given: Any) -> str:
    """A value as it is written in YAML, more or less, and not at length."""
    if isinstance(given, dict):
        return "a mapping"
    text = str(given).lower() if isinstance(given, bool) else repr(given)
    text = "null" if given is None else text
    return text if len(text) <= 80 else f"{text[:79]}…"


def _hint(problem: ErrorDetails, path: Path) -> str:
    if problem["type"] == "extra_forbidden":
        return _nearest(str(path[-1]), _known_keys(path[:-1]))
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        return "Quotes make text of it."
    return ""


def _known_keys(path: Path) -> list[str]:
    """The keys that a recipe may have at `path`."""
    if path == ("teacher",):
        return sorted({key for spec in TEACHERS for key in spec.model_fields})
    inside = path[:1] == ("teacher",)
    model: type[BaseModel] | None = TeacherSpec if inside else Recipe
    for part in (part for part in path[inside:] if isinstance(part, str)):
        if part == "losses":
            schemas = TypeAdapter(Loss).json_schema()["$defs"].values()
            return sorted({key for schema in schemas for key in schema["properties"]})
        assert model is not None
        model = next(
            (t for t in _arms(model.model_fields[part].annotation)
             if isinstance(t, type) and issubclass(t, BaseModel)),
            None,
        )  # fmt: skip
        if model is None:
            return []
    return list(model.model_fields) if model else []


def _arms(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known here: {', '.join(known)}." if known else ""
