"""Recipe keys and values that were renamed: old names are read, new ones are written.

Old names are replaced before validation, so the configs, the JSON Schema and error messages know
the new ones alone.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
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
# The same for an item of `distill.losses`, by the (new) kind of loss.
_RENAMED_LOSS_KEYS = {
    "soft_targets": {"standardise": "standardize_logits"},
    "decoupled_kd": {"target": "target_class_weight", "others": "non_target_class_weight"},
    "correlation": {"classes": "inter_class_weight", "texts": "intra_class_weight"},
    "hidden_mse": {"layers": "teacher_layers"},
    "hidden_cosine": {"layers": "teacher_layers"},
    "attention_kl": {"layers": "teacher_layers"},
    "attention_relations": {"layer": "teacher_layer", "heads": "relation_heads"},
}
_RENAMED_LOSS_KINDS = {
    "decoupled": "decoupled_kd",
    "attention": "attention_kl",
    "relations": "attention_relations",
    "embeddings": "embedding_mse",
}
_LOSS = ("distill", "losses", "*")
# Old value to new value, by (new) key.
_RENAMED_VALUES: _RenameTable = {
    ("teacher", "kind"): {"scores": "precomputed"},
    ("teacher", "head"): {"nearest": "nearest_centroid", "logistic": "logistic_regression"},
    ("student", "strategy"): {"measured": "importance"},
    (*_LOSS, "kind"): _RENAMED_LOSS_KINDS,
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
        recipe_values: The recipe, where it says what kinds of teacher and losses it has.
    """
    if key_path[:1] == ("sweep",) and len(key_path) > 1:
        swept = current_key_path(_swept_key_path(key_path[1]), recipe_values)
        return ("sweep", ".".join(map(str, swept)), *key_path[2:])
    current: KeyPath = ()
    for key in key_path:
        names = _renamed_at(current, _RENAMED_KEYS, recipe_values)
        current = (*current, names.get(str(key), key))
    return current


def current_values(
    raw_values: Any,
    key_path: KeyPath = (),
    recipe_values: Any = None,
    error_prefix: Callable[[KeyPath], str] = lambda key_path: "",
) -> Any:
    """Replace old keys and values, and warn of each key.

    Args:
        raw_values: Scalars, lists and mappings: a recipe, or what it has at `key_path`.
        key_path: Where they belong, in new keys.
        recipe_values: The recipe, where `raw_values` is a part of it.
        error_prefix: Start of an error about a key, such as its file and line.

    Raises:
        RecipeError: An old key and its new name are both there.
    """
    recipe_values = raw_values if recipe_values is None else recipe_values

    def current(value: Any, path: KeyPath) -> Any:
        return current_values(value, path, recipe_values, error_prefix)

    if isinstance(raw_values, dict):
        items = {}
        for key, path in _current_paths(raw_values, key_path, recipe_values, error_prefix):
            items[str(path[-1])] = current(raw_values[key], path)
        return items
    if key_path[:1] == ("sweep",) and len(key_path) > 1 and isinstance(raw_values, list):
        return [current(value, _swept_key_path(key_path[1])) for value in raw_values]
    if isinstance(raw_values, list):
        return [current(item, (*key_path, i)) for i, item in enumerate(raw_values)]
    if isinstance(raw_values, str):
        return _renamed_at(key_path, _RENAMED_VALUES, recipe_values).get(raw_values, raw_values)
    return raw_values


def update_document(document: YamlDocument, display_name: str) -> None:
    """Replace old keys and values of a parsed recipe; lines and spans stay where they were written.

    Raises:
        RecipeError: An old key and its new name are both there; names file and line.
    """
    written = document.value
    document.value = current_values(
        written,
        error_prefix=lambda key_path: f"{display_name}:{document.line_number(key_path)}: ",
    )
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
        names = _renamed_at(key_path, table, recipe_values, dumped)
        return {new: old for old, new in names.items()}

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


def current_loss_name(name: str) -> str:
    """Replace the old kind in a loss's name in the log of a training that began before."""
    kind, _, number = name.partition("_")  # numbered where a kind occurs twice
    if kind in _RENAMED_LOSS_KINDS and (not number or number.isdecimal()):
        return name.replace(kind, _RENAMED_LOSS_KINDS[kind], 1)
    return name


def warn_renamed(old: str, new: str) -> None:
    """Warn of an old name; the command line shows the warning as a note."""
    warnings.warn(f"{old} is now {new}.", RenamedKeyWarning, stacklevel=2)


def _current_paths(
    mapping: Mapping[str, Any],
    key_path: KeyPath,
    recipe_values: Any,
    error_prefix: Callable[[KeyPath], str],
) -> Iterator[tuple[str, KeyPath]]:
    """Yield each key of a mapping as written, and its path in new keys."""
    names = _renamed_at(key_path, _RENAMED_KEYS, recipe_values, mapping)
    for key in mapping:
        written = (*key_path, key)
        path = (*key_path, names.get(str(key), key))
        if key_path == ("sweep",):
            path = current_key_path(written, recipe_values)
        if path != written:
            if path[-1] in mapping:
                old, new = (".".join(map(str, p)) for p in (written, path))
                raise RecipeError(
                    f"{error_prefix(written)}{old} is the old name of {new}, and both are given.",
                    f"Keep {new}.",
                )
            dotted = (".".join(map(str, p[1:] if p[0] == "sweep" else p)) for p in (written, path))
            warn_renamed(*dotted)
        yield key, path


def _swept_key_path(dotted_key: str | int) -> KeyPath:
    return tuple(int(part) if part.isdecimal() else part for part in str(dotted_key).split("."))


def _renamed_at(
    key_path: KeyPath, table: _RenameTable, recipe_values: Any, mapping: Any = None
) -> dict[str, str]:
    """Return the renamed keys or values at a path; `mapping` is what lies there, if known."""
    if key_path[:1] == ("teacher",) and isinstance(recipe_values, dict):
        teacher = recipe_values.get("teacher")
        kind = teacher.get("kind") if isinstance(teacher, dict) else None
        if kind is not None and kind not in _TEACHER_KINDS:
            return {}
    pattern = tuple("*" if isinstance(key, int) else key for key in key_path)
    if pattern == _LOSS and table is _RENAMED_KEYS:
        return _renamed_loss_keys(
            _value_at(key_path, recipe_values) if mapping is None else mapping
        )
    return table.get(pattern, {})


def _renamed_loss_keys(loss: Any) -> dict[str, str]:
    kind = loss.get("kind") if isinstance(loss, Mapping) else None
    if kind is None:  # no old key has two meanings
        return {old: new for keys in _RENAMED_LOSS_KEYS.values() for old, new in keys.items()}
    return _RENAMED_LOSS_KEYS.get(_RENAMED_LOSS_KINDS.get(str(kind), str(kind)), {})


def _value_at(key_path: KeyPath, values: Any) -> Any:
    """Return what lies at a path of mappings and lists, or None."""
    for key in key_path:
        if isinstance(values, Mapping):
            values = values.get(key)
        elif isinstance(values, list) and isinstance(key, int) and key < len(values):
            values = values[key]
        else:
            return None
    return values
