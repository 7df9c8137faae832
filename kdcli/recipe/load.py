"""From a path or a name, and --set overrides, to a checked `Recipe`."""

import copy
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import kdcli
from kdcli import paths
from kdcli.errors import RecipeError, UsageError
from kdcli.recipe import mistakes, yaml
from kdcli.recipe.base import Spec
from kdcli.recipe.losses import usual
from kdcli.recipe.mistakes import Mistake, SpecT
from kdcli.recipe.schema import Recipe
from kdcli.recipe.student import WAYS
from kdcli.recipe.sweep import VARIES, probes
from kdcli.safe_files import write_whole
from kdcli.tasks import SINGLE_LABEL, TASKS

# `key=value`, and what the user typed for it where that wasn't --set.
Override = str | tuple[str, str]

_SOURCES: tuple[yaml.Path, ...] = (
    ("data", "dataset"),
    ("data", "unlabelled"),
    ("augment", "model"),
    ("teacher", "model"),
    ("teacher", "file"),
    ("student", "model"),
)


def shipped_folder() -> Path:
    """The folder of the recipes that come with kd, in a wheel or in a checkout."""
    package = Path(kdcli.__file__).parent
    in_wheel = package / "recipes"
    return in_wheel if in_wheel.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """The recipes that come with kd, by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def find(reference: str) -> Path:
    """The file of a recipe given by path, or by the name of one that ships with kd.

    Raises:
        RecipeError: There is none.
    """
    path = paths.local(reference)
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{reference} is a folder, not a recipe.", "Name a YAML file.")
    names = shipped()
    if reference in names:
        return names[reference]
    close = difflib.get_close_matches(reference, names, n=1)
    raise RecipeError(
        f"There is no recipe {reference}: neither a file nor one of {', '.join(names)}.",
        f"Did you mean {close[0]}?" if close else "",
    )


def is_recipe(reference: str) -> bool:
    """Whether a reference means a recipe rather than a model."""
    return Path(reference).suffix in (".yaml", ".yml") or reference in shipped()


def load(reference: str, overrides: Sequence[Override] = ()) -> Recipe:
    """Load and check a recipe.

    A relative path in the file counts from the file's folder, one in an override from the
    working folder; both come back absolute.

    Args:
        reference: A path, or the name of a recipe that ships with kd.
        overrides: `key=value` with dotted keys and YAML values, as `--set` takes them.

    Raises:
        RecipeError: Naming file, line and key.
    """
    path = find(reference)
    document = _parse(_read(path), path)
    _anchor_all(document, path)
    return _finish(document, str(path), overrides, Recipe)


def from_flags(
    model: type[SpecT], overrides: Sequence[Override], base: dict[str, Any] | None = None
) -> SpecT:
    """A part of a recipe that was given by flags, checked as a recipe is.

    Args:
        model: What to make: its keys are those that the overrides begin with.
        overrides: `key=value`, each with the flag it came from.
        base: What holds where no flag says otherwise.

    Raises:
        RecipeError: Naming the flag.
    """
    return _finish(yaml.Document(base or {}), "flags", overrides, model)


def varied(recipe: Recipe, settings: Mapping[str, Any], origin: str = "sweep") -> Recipe:
    """The recipe of one trial of a sweep.

    Args:
        recipe: What holds for all trials.
        settings: Values by their dotted keys; one that says which layers the student has takes
            the place of what the recipe says of that.
        origin: What to call the settings in an error.

    Raises:
        RecipeError: The recipe doesn't take them.
    """
    base = recipe.model_dump(mode="json") | {"sweep": None}
    for ways in WAYS:
        if any(f"student.{way}" in settings for way in ways):
            base["student"] |= dict.fromkeys(ways)
    overrides = [(f"{key}={json.dumps(value)}", origin) for key, value in settings.items()]
    return from_flags(Recipe, overrides, base)


def summary(path: Path) -> str:
    """What a recipe's first comment says it is for."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def copy_to(reference: str, to: Path | None) -> Path:
    """Copy a recipe as it stands, its relative paths made absolute.

    Args:
        reference: A path, or the name of a recipe that ships with kd.
        to: A file that doesn't exist yet, or a folder; None is the working folder.

    Returns:
        The file written.

    Raises:
        RecipeError: The file exists, or its folder doesn't, or there is no recipe to copy.
    """
    path = find(reference)
    target = to or Path()
    target = target / path.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} exists.", "Name another file.")
    if not target.parent.is_dir():
        raise RecipeError(f"There is no folder {target.parent}.")
    text = _read(path)
    document = _parse(text, path)
    moved = [(document.spans[s], absolute) for s, absolute in _anchor_all(document, path).items()]
    # From the last to the first: a replacement shifts only what follows it.
    for (start, end), absolute in sorted(moved, reverse=True):
        text = text[:start] + json.dumps(absolute, ensure_ascii=False) + text[end:]
    write_whole(target, text)
    return target


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, with every default written out."""
    return yaml.write(recipe.model_dump(mode="json"))


def _parse(text: str, path: Path) -> yaml.Document:
    document = yaml.parse(text, str(path))
    if not isinstance(document.value, dict):
        what = "is empty" if document.value is None else "holds no keys"
        raise RecipeError(f"{path}: {what}.", "Start from one that works: kd recipe list.")
    return document


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > yaml.MAX_BYTES:
            raise RecipeError(f"{path}: is larger than {yaml.MAX_BYTES:,} bytes; no recipe is.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: is not UTF-8 text.", "Save it as UTF-8.") from error
    except OSError as error:
        raise RecipeError(f"{path}: can't be read: {error.strerror}.") from error


def _anchor_all(document: yaml.Document, path: Path) -> dict[yaml.Path, str]:
    """Make the paths that a file names absolute; those that were, by source."""
    moved = {}
    for source in (*_SOURCES, *_choices_of_sources(document.value)):
        where = f"{path}:{document.line(source)}: {'.'.join(map(str, source))}"
        if absolute := _anchor(document.value, source, path.parent, where):
            moved[source] = absolute
    return moved


def _choices_of_sources(value: dict[str, Any]) -> list[yaml.Path]:
    """Where a sweep names models to choose from."""
    key = "student.model"
    space = value.get("sweep")
    choices = space.get(key) if isinstance(space, dict) else None
    return [("sweep", key, i) for i in range(len(choices) if isinstance(choices, list) else 0)]


def _anchor(value: Any, source: yaml.Path, base: Path, where: str) -> str | None:
    """Make a source's path absolute; a Hub id has no file of its name below `base`.

    Returns:
        The absolute path, None where the source is no path.

    Raises:
        RecipeError: No path can be like that; the message begins with `where`.
    """
    part, key = value, source[-1]
    for name in source[:-1]:
        part = part.get(name) if isinstance(part, dict) else None
    given = part.get(key) if isinstance(part, dict) else None
    if isinstance(part, list) and isinstance(key, int):
        given = part[key]
    if not isinstance(given, str) or not given:
        return None
    try:
        path = paths.local(given, base)
    except UsageError as error:
        raise RecipeError(f"{where}: {error}") from error
    if given.startswith("package:"):
        return None
    if given.startswith((".", "/", "~")) or path.exists() or paths.is_pattern(given):
        part[key] = absolute = str(path.resolve())
        return absolute
    return None


def _finish(
    document: yaml.Document, name: str, overrides: Sequence[Override], model: type[SpecT]
) -> SpecT:
    written = copy.deepcopy(document.value)
    origins: dict[yaml.Path, str] = {}
    for override in overrides:
        text, origin = (override, f"--set {override}") if isinstance(override, str) else override
        _override(document.value, text, origin, origins, model)
    found = mistakes.check(document.value, model)
    if not isinstance(found, Mistake):
        if isinstance(found, Recipe):
            _check_sweep(found, document, name, origins)
        return found
    where = _origin(found.path, origins)
    # What is wrong without the overrides as well is the file's own mistake.
    if where is None or mistakes.check(written, model) == found:
        where = f"{name}:{document.line(found.path)}"
    key = ".".join(map(str, found.path)) or "the recipe"
    raise RecipeError(f"{where}: {key} {found.sentence}.", found.hint)


def _check_sweep(
    recipe: Recipe, document: yaml.Document, name: str, origins: Mapping[yaml.Path, str]
) -> None:
    """Whether the recipe takes each value that a sweep may try: alone, and beside the others."""
    space = recipe.sweep or {}
    for key, values in space.items():
        path = ("sweep", key)
        where = f"{_origin(path, origins) or f'{name}:{document.line(path)}'}: sweep"
        if key.partition(".")[0] not in VARIES:
            raise RecipeError(
                f"{where}: {key} can't vary.", f"What can begins with {' or '.join(VARIES)}."
            )
        for value in probes(values):
            varied(recipe, {key: value}, where)
    if space:
        where = f"{name}:{document.line(('sweep',))}: sweep"
        varied(recipe, {key: probes(values)[0] for key, values in space.items()}, where)


def _override(
    value: dict[str, Any],
    override: str,
    name: str,
    origins: dict[yaml.Path, str],
    model: type[Spec],
) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{name}: is not of the form key=value.")
    path = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    if path[0] == "sweep":
        path = tuple(key.split(".", 1))  # its keys have dots
    node: Any = value
    for i, part in enumerate(path[:-1], start=1):
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = _default_items(model, path[:i], value) or {}
        node = _child(node, part, name)
        if not isinstance(node, dict | list):
            raise RecipeError(f"{name}: {part} is a value and has no keys below it.")
    new = yaml.parse(text, name).value
    if isinstance(node, list):
        _child(node, path[-1], name)
    node[path[-1]] = new
    origins.pop(path, None)
    origins[path] = name
    for source in (*_SOURCES, *_choices_of_sources(value)):
        if path[:1] == source[:1] and path in (source, source[:-1], source[:1]):
            _anchor(value, source, Path.cwd(), name)


def _child(node: Any, part: str | int, name: str) -> Any:
    if isinstance(node, list):
        if not isinstance(part, int) or part >= len(node):
            raise RecipeError(f"{name}: there are {len(node)} items, counted from 0, not {part}.")
        return node[part]
    return node[part]


def _default_items(model: type[Spec], path: yaml.Path, written: Mapping[str, Any]) -> list[Any]:
    """The list at `path` where a recipe doesn't write it: its items can be overridden as well."""
    if path == ("distill", "losses"):
        data = written.get("data")
        task = data.get("task") if isinstance(data, dict) else None
        return [spec.model_dump() for spec in usual(TASKS.get(str(task), SINGLE_LABEL))]
    field = model.model_fields.get(str(path[0]))
    value: Any = field.default if field else None
    for part in path[1:]:
        value = getattr(value, str(part), None)
    items = value if isinstance(value, tuple) else ()
    return [item.model_dump() if isinstance(item, BaseModel) else item for item in items]


def _origin(path: yaml.Path, origins: Mapping[yaml.Path, str]) -> str | None:
    """What the user typed that a key's value comes from; None where that is the file."""
    # The last one: a flag comes after what it makes void.
    return next((origins[p] for p in reversed([*origins]) if _related(p, path)), None)


def _related(one: yaml.Path, other: yaml.Path) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
