"""Recipe keys and values that were renamed: old names are read, new ones are written.

Old names are replaced before validation, so the configs, the JSON Schema and error messages know
the new ones alone.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from kdcli.errors import RecipeError
from kdcli.recipe.strict_yaml import KeyPath, YamlDocument

_RenameTable = Mapping[tuple[str, ...], dict[str, str]]

_TRAINING_KEYS = {
    "gradient_accumulation": "gradient_accumulation_steps",
    "warmup": "warmup_ratio",
    "freeze": "freeze_layers",
    "average": "weight_averaging_ratio",
    "focal": "focal_gamma",
    "keep": "keep_checkpoint",
}
_TEACHER_MODEL_KEYS = {"folds": "cross_fit_folds", "calibrated": "temperature_scaling"}
# Old key to new key, by section; `*` stands for any item of a list.
_RENAMED_KEYS: _RenameTable = {
    ("data",): {"unlabelled": "unlabeled", "truncate": "truncation"},
    ("augment",): {"mix": "crossover"},
    ("teacher",): {
        **_TEACHER_MODEL_KEYS,
        "also": "ensemble_with",
        "gives": "output_type",
        "template": "hypothesis_template",
        "key_variable": "api_key_env",
        "requests_a_minute": "requests_per_minute",
        "price": "price_per_million_tokens",
        "at_most": "max_cost",
    },
    ("teacher", "fine_tune"): _TRAINING_KEYS,
    ("teacher", "ensemble_with", "*"): _TEACHER_MODEL_KEYS,
    ("teacher", "ensemble_with", "*", "fine_tune"): _TRAINING_KEYS,
    ("student",): {
        "keep": "keep_layers",
        "layers": "num_hidden_layers",
        "decoder_keep": "keep_decoder_layers",
        "decoder_layers": "num_decoder_layers",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "hidden": "hidden_size",
    },
    ("distill",): _TRAINING_KEYS,
    ("evaluate",): {"refuse_at_most": "max_false_rejection_rate"},
}
# Old value to new value, by (new) key.
_RENAMED_VALUES: _RenameTable = {
    ("teacher", "kind"): {"scores": "precomputed"},
    ("teacher", "head"): {"nearest": "nearest_centroid", "logistic": "logistic_regression"},
    ("student", "strategy"): {"measured": "importance"},
    ("evaluate", "thresholds"): {"one": "global", "each": "per_label"},
}
# Teachers of other kinds may call their own keys as they like.
_TEACHER_KINDS = (
    "classifier",
    "scores",
    "precomputed",
    "zero_shot",
    "embeddings",
    "endpoint",
    "function",
)


class RenamedKeyWarning(FutureWarning):
    """A recipe or a command uses a name that kd has replaced."""


def current_key_path(key_path: KeyPath, recipe_values: Any = None) -> KeyPath:
    """Replace old keys in a path.

    Args:
        key_path: Keys from the recipe's root; one below `sweep` is dotted.
        recipe_values: The recipe, where it says what kind of teacher it has.
    """
    if key_path[:1] == ("sweep",) and len(key_path) > 1:
        swept = current_key_path(tuple(str(key_path[1]).split(".")))
        return ("sweep", ".".join(map(str, swept)), *key_path[2:])
    current: KeyPath = ()
    for key in key_path:
        names = _renamed_at(current, _RENAMED_KEYS, recipe_values)
        current = (*current, names.get(str(key), key))
    return current


def current_values(raw_values: Any, key_path: KeyPath = (), recipe_values: Any = None) -> Any:
    """Replace old keys and values, and warn of each key.

    Args:
        raw_values: Scalars, lists and mappings: a recipe, or what it has at `key_path`.
        key_path: Where they belong, in new keys.
        recipe_values: The recipe, where `raw_values` is a part of it.

    Raises:
        RecipeError: An old key and its new name are both there.
    """
    recipe_values = raw_values if recipe_values is None else recipe_values
    if isinstance(raw_values, dict):
        return dict(_current_items(raw_values, key_path, recipe_values))
    if key_path[:1] == ("sweep",) and len(key_path) > 1 and isinstance(raw_values, list):
        swept = tuple(str(key_path[1]).split("."))
        return [current_values(value, swept, recipe_values) for value in raw_values]
    if isinstance(raw_values, list):
        return [
            current_values(item, (*key_path, i), recipe_values) for i, item in enumerate(raw_values)
        ]
    if isinstance(raw_values, str):
        return _renamed_at(key_path, _RENAMED_VALUES, recipe_values).get(raw_values, raw_values)
    return raw_values


def update_document(document: YamlDocument, display_name: str) -> None:
    """Replace old keys and values of a parsed recipe; lines and spans stay where they were written.

    Raises:
        RecipeError: An old key and its new name are both there; names file and line.
    """
    written = document.value
    try:
        document.value = current_values(written)
    except _BothKeysError as error:
        line = document.line_number(error.key_path)
        raise RecipeError(f"{display_name}:{line}: {error.message}", error.hint) from error
    for path, line in [*document.line_numbers.items()]:
        document.line_numbers[current_key_path(path, written)] = line
    for path, span in [*document.value_spans.items()]:
        document.value_spans[current_key_path(path, written)] = span


def original_values(dumped: Any, key_path: KeyPath = (), recipe_values: Any = None) -> Any:
    """Put the old names back into a dumped recipe.

    Stage keys hash these, so that a stage that ran before a renaming is still reused.
    """
    recipe_values = dumped if recipe_values is None else recipe_values

    def old_names(table: _RenameTable) -> dict[str, str]:
        return {new: old for old, new in _renamed_at(key_path, table, recipe_values).items()}

    if isinstance(dumped, dict):
        old_keys = old_names(_RENAMED_KEYS)
        return {
            old_keys.get(key, key): original_values(value, (*key_path, key), recipe_values)
            for key, value in dumped.items()
        }
    if isinstance(dumped, list):
        return [original_values(item, (*key_path, i), recipe_values)
                for i, item in enumerate(dumped)]  # fmt: skip
    return old_names(_RENAMED_VALUES).get(dumped, dumped) if isinstance(dumped, str) else dumped


def warn_renamed(old: str, new: str) -> None:
    """Warn of an old name; the command line shows the warning as a note."""
    warnings.warn(f"{old} is now {new}.", RenamedKeyWarning, stacklevel=2)


class _BothKeysError(RecipeError):
    """An old key and its new name are both there."""

    def __init__(self, old: KeyPath, new: KeyPath) -> None:
        self.key_path = old
        old_name, new_name = (".".join(map(str, path)) for path in (old, new))
        super().__init__(
            f"{old_name} is the old name of {new_name}, and both are given.", f"Keep {new_name}."
        )


def _current_items(
    mapping: Mapping[str, Any], key_path: KeyPath, recipe_values: Any
) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        written = (*key_path, key)
        path = current_key_path(written, recipe_values)
        if path != written:
            if path[-1] in mapping:
                raise _BothKeysError(written, path)
            names = (".".join(map(str, p[1:] if p[0] == "sweep" else p)) for p in (written, path))
            warn_renamed(*names)
        yield str(path[-1]), current_values(value, path, recipe_values)


def _renamed_at(key_path: KeyPath, table: _RenameTable, recipe_values: Any) -> dict[str, str]:
    if key_path[:1] == ("teacher",) and isinstance(recipe_values, dict):
        teacher = recipe_values.get("teacher")
        kind = teacher.get("kind") if isinstance(teacher, dict) else None
        if kind is not None and kind not in _TEACHER_KINDS:
            return {}
    return table.get(tuple("*" if isinstance(key, int) else key for key in key_path), {})
