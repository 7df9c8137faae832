"""Find and import plug-ins: from installed packages, or from the user's own code.

A package offers losses, readers, teachers, students and stages as entry points of the groups in
`GROUPS`; the entry point's name is the `kind` in a recipe (a
student's `family`). Entry points are looked up only for a
kind that is not built in. A kind `package.module:Name` imports any object, which runs the user's
code and therefore needs `--allow-code`.
"""

import importlib
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError, UserError

GROUPS = (
    "kdcli.losses",
    "kdcli.readers",
    "kdcli.teachers",
    "kdcli.students",
    "kdcli.stages",
)
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

_code_allowed: ContextVar[bool] = ContextVar("code_allowed", default=False)


def set_code_allowed(allowed: bool) -> None:
    """Allow or forbid importing `package.module:Name` references from here on.

    A command sets this from `--allow-code` before it reads a recipe, which names the code.
    """
    _code_allowed.set(allowed)


def plugin_names(group: str) -> list[str]:
    """List the kinds that installed packages offer in a group, sorted."""
    return sorted({entry_point.name for entry_point in entry_points(group=group)})


def load_plugin(group: str, kind: str, base_class: type | None = None) -> Any | None:
    """Load the plugin that an installed package offers under a name.

    Args:
        group: One of `GROUPS`.
        kind: The entry point's name.
        base_class: The class that the plugin has to be a subclass of. None accepts any object.

    Returns:
        The object, or None if no package offers the kind.

    Raises:
        UserError: Two packages offer the kind, the plugin fails to import, or it is no subclass of
            `base_class`.
    """
    candidates = tuple(entry_points(group=group, name=kind))
    if not candidates:
        return None
    if len({entry_point.value for entry_point in candidates}) > 1:
        raise UserError(
            f"{kind} ({group}) is offered by several packages: "
            f"{', '.join(sorted(map(_origin, candidates)))}.",
            "Uninstall all but one of them.",
        )
    entry_point = candidates[0]
    source = f"The plugin {kind} ({group}) of {_origin(entry_point)}"
    try:
        plugin = entry_point.load()
    except Exception as error:  # the plugin's code may raise anything
        raise _import_failure(source, error) from error
    return _checked(plugin, source, base_class)


def is_object_reference(kind: str) -> bool:
    """Return whether a kind is written `package.module:Name`."""
    return _REFERENCE.fullmatch(kind) is not None


def import_object(
    reference: str, *, allow_code: bool | None = None, base_class: type | None = None
) -> Any:
    """Import the object that `package.module:Name` refers to.

    Args:
        reference: The module and the name in it.
        allow_code: Whether the user allows kd to run code that the recipe names. None is as set by
            `set_code_allowed`.
        base_class: The class that the object has to be a subclass of. None accepts any object.

    Raises:
        UsageError: The code is not allowed.
        UserError: The reference is malformed, the import fails, or the object is no subclass of
            `base_class`.
    """
    if not is_object_reference(reference):
        raise UserError(f"{reference} is not of the form package.module:Name.")
    if not (_code_allowed.get() if allow_code is None else allow_code):
        raise UsageError(
            f"{reference} is code that kd would run.", "Allow it with --allow-code if you trust it."
        )
    # The kd script lies elsewhere: find modules of the working folder as `python -m` does.
    if (working_folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, working_folder)
    module_name, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # the user's code may raise anything
        raise _import_failure(reference, error) from error
    return _checked(found, reference, base_class)


def find_class(group: str, name: str, base_class: type) -> Any | None:
    """Find the class of an entry point's name or of a reference `package.module:Name`.

    Returns:
        The class, or None if no installed package offers the name.

    Raises:
        UsageError: A reference, and code is not allowed.
        UserError: The import fails, or the object is no subclass of `base_class`.
    """
    if is_object_reference(name):
        return import_object(name, base_class=base_class)
    return load_plugin(group, name, base_class)


def validate_by_kind(
    group: str, kind: str, base_class: type, values: Mapping[str, Any]
) -> Any | None:
    """Validate a part of a recipe by the pydantic class that its kind names outside of kd.

    Returns:
        The validated part, or None if no installed package offers the kind.

    Raises:
        ValidationError: The class refuses the values.
        UsageError, UserError: As `find_class`.
    """
    config_class = find_class(group, kind, base_class)
    if config_class is None or not is_object_reference(kind):
        return config_class and config_class.model_validate(values)
    own_kind = config_class.model_fields["kind"].default
    validated = config_class.model_validate({**values, "kind": own_kind})
    # The recipe keeps the reference, so that the dumped recipe finds the class again.
    return validated.model_copy(update={"kind": kind})


def _origin(entry_point: EntryPoint) -> str:
    """The package that offers an entry point."""
    return entry_point.dist.name if entry_point.dist is not None else entry_point.value


def _import_failure(source: str, error: Exception) -> UserError:
    return UserError(
        f"{source} fails to import: {type(error).__name__}: {error}.",
        "Install or mend it, or choose another kind.",
    )


def _checked(plugin: Any, source: str, base_class: type | None) -> Any:
    if base_class is None or (isinstance(plugin, type) and issubclass(plugin, base_class)):
        return plugin
    raise UserError(
        f"{source} is not a subclass of {base_class.__module__}.{base_class.__qualname__}."
    )
