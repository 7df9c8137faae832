"""What lies in a model's folder, seen without loading it."""

import json
import math
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.safe_files import is_inside

# Where weights are looked for: the first that is there holds them, or lists the files that do.
_SAFETENSORS_NAMES = ("model.safetensors", "model.safetensors.index.json")
_PICKLE_NAMES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_COPY_AGAIN_HINT = "Copy or download it anew."


def find_weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights from; none where there are no weights.

    Raises:
        ModelError: An index is damaged, or names what it should not.
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
    """How many numbers the weights are, by their files' headers.

    Raises:
        ModelError: A file is missing, damaged or cut off.
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
                f"{folder} lacks {path.name}, which its index names.", _COPY_AGAIN_HINT
            )
        if path.suffix != ".safetensors":
            numbers += path.stat().st_size // 4
            continue
        try:
            with safe_open(path, framework="numpy") as tensors:
                names = tensors.keys()
                numbers += sum(math.prod(tensors.get_slice(n).get_shape()) for n in names)
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged, or was cut off.", _COPY_AGAIN_HINT) from error
    return numbers


def check_model_folder(folder: Path) -> None:
    """Refuse a model by what its files say, before anything is done with it.

    Raises:
        ModelError: A file is damaged, the model is quantised, or it wants code of its own to be
            run.
    """
    config = _read_json(folder / "config.json")
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", _read_json(folder / "tokenizer_config.json")),
    ):
        if content.get("auto_map"):
            raise ModelError(
                f"{folder / name} asks for code of its own (auto_map), and kd runs no code that "
                "comes with a model.",
                "Take a model that transformers knows by itself.",
            )
    # transformers opens such a file, and a student would be saved with what is in it. The path of
    # the machine that the model was made on mostly leads nowhere here, and is left alone.
    for key, name in _read_json(folder / "tokenizer_config.json").items():
        names_file = key in ("vocab", "merges") or key.endswith("_file")
        if names_file and isinstance(name, str) and _points_outside_folder(folder, name):
            raise ModelError(
                f"{folder / 'tokenizer_config.json'} names a file outside of its folder: "
                f"{key}: {name}."
            )
    if config.get("quantization_config"):
        raise ModelError(
            f"{folder} is quantised (quantization_config in its config.json): such weights can "
            "neither be cut nor trained.",
            "Take the model that it was made from.",
        )
    # A forecast needs none.
    if find_weight_files(folder):
        count_stored_parameters(folder)


def read_vocab_size(folder: Path) -> int | None:
    """How many embeddings a model has for tokens, by its configuration; None where it tells none.

    Raises:
        ModelError: The configuration is damaged.
    """
    size = _read_json(folder / "config.json").get("vocab_size")
    return size if isinstance(size, int) else None


def _points_outside_folder(folder: Path, name: str) -> bool:
    try:
        there = Path(name).exists()
    except (OSError, ValueError):
        return False  # no path at all
    return there and not is_inside(folder, str(Path(name).absolute()))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path} is damaged: it is no JSON.", _COPY_AGAIN_HINT) from error
    return content if isinstance(content, dict) else {}
