"""Find the runtime of a student that is no transformer, by its folder."""

import json
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from kdcli.runtime import TextClassifier, Truncation


class FamilyRuntime(NamedTuple):
    """Where the runtime of a family's students is.

    Attributes:
        module: The module of the class.
        name: The class, a `TextClassifier`.
        library: The library that reads the folder, by its name on the Hub.
        reads_whole_texts: Whether its students have no length limit in tokens.
    """

    module: str
    name: str
    library: str
    reads_whole_texts: bool = False


# By the configuration's `model_type`.
RUNTIMES = {
    "model2vec": FamilyRuntime("kdcli.static_runtime", "StaticClassifier", "model2vec"),
    "kd_tfidf": FamilyRuntime("kdcli.tfidf_runtime", "TfidfClassifier", "kd", True),
}


def find_family_runtime(folder: Path) -> str | None:
    """Return the `model_type` of a student's folder that has a runtime of its own, or None."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if kind in RUNTIMES else None


def load_family_classifier(
    folder: Path, *, max_length: int | None = None, truncation: Truncation | None = None
) -> TextClassifier:
    """Load the student in a folder for which `find_family_runtime` has found a runtime.

    Raises:
        ModelError: A file is missing or invalid.
    """
    kind = find_family_runtime(folder)
    assert kind is not None
    runtime = RUNTIMES[kind]
    classifier: TextClassifier = getattr(import_module(runtime.module), runtime.name)(
        folder, max_length=max_length, truncation=truncation
    )
    return classifier
