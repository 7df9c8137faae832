"""From what a person writes for a model to a folder, and from a folder to a model."""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import hub
from kdcli.errors import ModelError
from kdcli.run import file_digest

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PACKAGE = "package:"


def locate(reference: str, revision: str | None = None) -> Path:
    """The folder of a model's files, downloaded where need be.

    Args:
        reference: A folder, a Hub id, or `package:NAME[/PATH]`.
        revision: The Hub model's branch, tag or commit.

    Raises:
        ModelError: There is no such model.
        HubError: The Hub can't be reached.
    """
    if reference.startswith(_PACKAGE):
        return _in_package(reference)
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return _checked(folder)
    if folder.exists():
        raise ModelError(f"{reference} is a file; a model is a folder with a config.json.")
    if reference.startswith((".", "/", "~")):
        raise ModelError(f"There is no model folder {reference}.")
    return hub.download_model(reference, revision)


def identity(reference: str, revision: str | None = None) -> str:
    """What a model is, for the key of what is made from it: no download, no weights loaded.

    A folder is known by its files' content, a Hub model by id and revision (pin a commit where a
    moving branch matters).
    """
    local = reference.startswith(_PACKAGE) or Path(reference).expanduser().is_dir()
    if not local:
        return f"hub:{reference}@{revision or 'main'}"
    digest = hashlib.sha256()
    folder = locate(reference)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in {".json", ".txt", ".model", ".safetensors"}:
            digest.update(f"{path.name}:{file_digest(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def load_config(folder: Path) -> "PretrainedConfig":
    """The configuration in `folder`.

    Raises:
        ModelError: It is missing, broken, or of an architecture that transformers doesn't know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{folder}/config.json can't be used: {_first_line(error)}") from error


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in `folder`.

    Raises:
        ModelError: It is missing or broken.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise _no_tokenizer(folder, _first_line(error)) from error
    # Where the files are missing, transformers makes one up that knows its special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _no_tokenizer(folder, "its files are missing.")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"The tokenizer in {folder} has neither padding nor end-of-text token."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_classifier(
    folder: Path, labels: tuple[str, ...] | None = None, *, fresh_head: bool = False
) -> "PreTrainedModel":
    """The model in `folder` with its classification head, in float32 and evaluation mode.

    Args:
        folder: A `save_pretrained` folder.
        labels: The names of a new head's outputs, in order.
        fresh_head: Where it has no head for as many labels, give it one, drawn from torch's random
            generator.

    Raises:
        ModelError: The weights are missing or broken, are no text classifier's, or hold no
            classification head where one is needed.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    config = load_config(folder)
    _refuse_shards_elsewhere(folder)
    if labels is not None:
        set_labels(config, labels)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=fresh_head,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"The model in {folder} can't be loaded: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    encoder = [key for key in missing if key.startswith(model.base_model_prefix + ".")]
    if any("pooler" not in key for key in encoder):
        raise ModelError(f"The weights in {folder} lack {encoder[0]} and {len(encoder) - 1} more.")
    if missing and not fresh_head:
        raise ModelError(
            f"The model in {folder} has no trained classification head ({missing[0]} is missing).",
            "Fine-tune it: give teacher.fine_tune in the recipe.",
        )
    if model.config.pad_token_id is None:
        # Decoders find a text's last token by it.
        model.config.pad_token_id = load_tokenizer(folder).pad_token_id
    return model.eval()


def has_head(folder: Path) -> bool:
    """Whether the model in `folder` says of itself that it classifies sequences."""
    names = load_config(folder).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def labels_of(config: "PretrainedConfig") -> tuple[str, ...]:
    """The names of a classifier's outputs, in order."""
    return tuple(str(config.id2label[i]) for i in range(len(config.id2label)))


def set_labels(config: "PretrainedConfig", labels: tuple[str, ...]) -> None:
    """Name a classifier's outputs, in order; their number follows."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}


def count_parameters(model: Any) -> int:
    """All parameters, a shared one once."""
    return sum(p.numel() for p in model.parameters())


def megabytes(folder: Path) -> float:
    """The weights' size on disk, in megabytes of 1,000,000 bytes."""
    return sum(p.stat().st_size for p in folder.glob("*.safetensors")) / 1e6


def save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write an ordinary `save_pretrained` folder that plain transformers loads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _no_tokenizer(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder} has no tokenizer that can be used: {reason}",
        "Save one beside the weights: tokenizer.save_pretrained(FOLDER).",
    )


def _in_package(reference: str) -> Path:
    name, _, rest = reference.removeprefix(_PACKAGE).partition("/")
    try:
        # Finding a top-level package's files doesn't import it: none of its code runs.
        spec = find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{reference}: there is no installed package {name}.",
            f"Install it: pip install {name.replace('_', '-')}.",
        )
    for root in map(Path, spec.submodule_search_locations):
        folder = (root / rest).resolve()
        if folder.is_dir() and folder.is_relative_to(root.resolve()):
            return _checked(folder)
    raise ModelError(f"{reference}: the package {name} has no folder {rest}.")


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no model folder: it has no config.json.")
    return folder


def _refuse_shards_elsewhere(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
        outside = sorted(shard for shard in shards if Path(shard).name != shard)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: it lists no weights.") from error
    # transformers follows such a name to wherever it leads.
    if outside:
        raise ModelError(f"{index} names weights outside its folder: {outside[0]}.")


def _first_line(error: BaseException) -> str:
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    return (line or type(error).__name__).rstrip(".:")[:300] + "."
