"""Inspect the files of a model's folder without loading the model."""

import json
import math
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.safe_files import is_inside

# File names of weights or of their index; the first one present is used.
_SAFETENSORS_NAMES = ("model.safetensors", "model.safetensors.index.json")
_PICKLE_NAMES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_COPY_AGAIN_HINT = "Copy or download it again."


def find_weight_files(folder: Path) -> list[Path]:
    """List the files that transformers loads the weights from; empty without weights.

    Raises:
        ModelError: An index is damaged, or names files outside the folder or of another format.
    """
    name = next((n for n in (*_SAFETENSORS_NAMES, *_PICKLE_NAMES) if (folder / n).is_file()), None)
    if name is None:
        return []
    if not name.endswith(".json"):
        return [folder / name]
    index, kind = folder / name, Path(name.removesuffix(".index.json")).suffix
    try:
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        outside = [shard for shard in shards if Path(shard).name != shard]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: it lists no weights.") from error
    # transformers follows such a name to wherever it leads.
    if outside:
        raise ModelError(f"{index} names weights outside its folder: {outside[0]}.")
    # It would also read a pickle among safetensors.
    if not shards or any(Path(shard).suffix != kind for shard in shards):
        raise ModelError(f"{index} names weights that are no {kind} files.")
    return [folder / shard for shard in shards]


def count_stored_parameters(folder: Path) -> int:
    """Count the numbers in the weight files by their headers.

    Raises:
        ModelError: A file is missing, damaged or truncated.
    """
    from safetensors import SafetensorError, safe_open

    numbers, paths = 0, find_weight_files(folder)
    if not paths:
        raise ModelError(
            f"{folder} has no {_SAFETENSORS_NAMES[0]}.",
            "Where its weights are a pickle (pytorch_model.bin) that you trust: --allow-pickle.",
        )
    for path in paths:
        if not path.is_file():
            raise ModelError(
                f"{folder}: {path.name} is missing, which the index lists.", _COPY_AGAIN_HINT
            )
        if path.suffix != ".safetensors":
            numbers += path.stat().st_size // 4
            continue
        try:
            with safe_open(path, framework="numpy") as tensors:
                names = tensors.keys()
                numbers += sum(math.prod(tensors.get_slice(n).get_shape()) for n in names)
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged or truncated.", _COPY_AGAIN_HINT) from error
    return numbers


def check_model_folder(folder: Path) -> None:
    """Refuse a model that kd can't use, by its files alone.

    Raises:
        ModelError: A file is damaged, the model is quantised, or it needs its own code.
    """
    config = _read_json(folder / "config.json")
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", _read_json(folder / "tokenizer_config.json")),
    ):
        if content.get("auto_map"):
            raise ModelError(
                f"{folder / name} asks for the model's own code (auto_map), and kd runs no code "
                "that comes with a model.",
                "Use an architecture that transformers supports.",
            )
    # transformers opens such a file, and a student would be saved with its content. A path of the
    # machine that the model was made on mostly doesn't exist here, and is ignored.
    for key, name in _read_json(folder / "tokenizer_config.json").items():
        names_file = key in ("vocab", "merges") or key.endswith("_file")
        if names_file and isinstance(name, str) and _points_outside_folder(folder, name):
            raise ModelError(
                f"{folder / 'tokenizer_config.json'} names a file outside its folder: "
                f"{key}: {name}."
            )
    if config.get("quantization_config"):
        raise ModelError(
            f"{folder} is quantised (quantization_config in its config.json): such weights can "
            "neither be pruned nor trained.",
            "Use the model that it was quantised from.",
        )
    # An estimate needs no weights.
    if find_weight_files(folder):
        count_stored_parameters(folder)


def read_vocab_size(folder: Path) -> int | None:
    """Read `vocab_size` from a model's configuration; None without one.

    Raises:
        ModelError: The configuration is damaged.
    """
    size = _read_json(folder / "config.json").get("vocab_size")
    return size if isinstance(size, int) else None


def _points_outside_folder(folder: Path, name: str) -> bool:
    try:
        exists = Path(name).exists()
    except (OSError, ValueError):
        return False  # not a path
    return exists and not is_inside(folder, str(Path(name).absolute()))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path} is damaged: it is not JSON.", _COPY_AGAIN_HINT) from error
    return content if isinstance(content, dict) else {}
