"""Locate, load and save models."""

import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import distributed, hub, path_resolution, resources
from kdcli.errors import ModelError, as_resource_error, first_message_line
from kdcli.family_runtimes import find_family_runtime
from kdcli.models import model_folder_inspection
from kdcli.runtime import read_labels_and_task
from kdcli.safe_files import apply_umask, find_escaping_symlink, sha256_of_file
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import REGRESSION, Task

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PACKAGE_PREFIX = "package:"


def locate_model(
    reference: str, revision: str | None = None, *, allow_pickle: bool = False
) -> Path:
    """Locate the folder of a model's files; download it if necessary.

    Args:
        reference: A folder, a Hub id, or `package:NAME[/PATH]`.
        revision: The Hub model's branch, tag or commit.
        allow_pickle: Whether the weights may be a pickle.

    Raises:
        UsageError: The reference is not a valid Hub id.
        ModelError: There is no such model, its weights are a pickle, or kd can't use it (see
            `kdcli.models.model_folder_inspection.check_model_folder`).
        RemoteServiceError: The Hub can't be reached.
    """
    folder = _resolve_local_folder(reference)
    if folder is None:
        folder = hub.download_model(reference, revision)
        if allow_pickle and not model_folder_inspection.find_weight_files(folder):
            folder = hub.download_model(reference, revision, allow_pickle=True)
        model_folder_inspection.check_model_folder(folder)
    pickles = [
        path.name
        for path in model_folder_inspection.find_weight_files(folder)
        if path.suffix == ".bin"
    ]
    if pickles and not allow_pickle:
        raise ModelError(
            f"The weights of {reference} are a pickle ({pickles[0]}), which can run code.",
            "If you trust it, pass --allow-pickle.",
        )
    return folder


def compute_model_fingerprint(reference: str, revision: str | None = None) -> str:
    """Identify a model for cache keys, without downloading or loading it.

    A folder is identified by the content of its files, a Hub model by id and revision. Pin a commit
    if the branch may move.

    Raises:
        ModelError: There is no such folder or package, or kd can't use the model in it.
    """
    folder = _resolve_local_folder(reference)
    if folder is None:
        return f"hub:{reference}@{revision or 'main'}"
    digest = hashlib.sha256()
    weights = model_folder_inspection.find_weight_files(folder)
    for path in sorted(folder.iterdir()):
        if path in weights or (path.is_file() and path.suffix in {".json", ".txt", ".model"}):
            digest.update(f"{path.name}:{sha256_of_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def find_local_model(reference: str, revision: str | None = None) -> Path | None:
    """Locate the folder of a model's files on this disk or in the Hub's cache; None without one.

    Raises:
        ModelError: The reference names a folder or package that doesn't exist.
    """
    return _resolve_local_folder(reference) or hub.cached_model_folder(reference, revision)


def load_config(folder: Path) -> "PretrainedConfig":
    """Load the configuration in `folder`.

    Raises:
        ModelError: It is missing or damaged, or its architecture is unknown to transformers or
            is not a text classifier.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS
    from transformers import AutoConfig

    from kdcli.models import encoder_head, static_model  # noqa: F401 - register architectures

    if (family := find_family_runtime(folder)) is not None:
        raise ModelError(
            f"{folder} holds a student of type {family}, which is no transformer: it can be "
            "evaluated and run, and nothing else.",
            "Name a transformer.",
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        fault = ModelError(f"{folder}/config.json can't be used: {first_message_line(error)}")
        raise as_resource_error(error) or fault from error
    if type(config) not in CLASSIFIERS:
        raise ModelError(
            f"{folder}: a model of type {config.model_type} is no text classifier.",
            "Use a text model, such as BERT.",
        )
    # The key may name another weight file, for which kd has no checks.
    vars(config).pop("transformers_weights", None)
    return config


def load_label_config(folder: Path) -> "PretrainedConfig":
    """Load labels and task of a classifier, which may be a student that is no transformer.

    Raises:
        ModelError: The configuration is missing or damaged, or not a text classifier's.
    """
    from transformers import PretrainedConfig

    if find_family_runtime(folder) is None:
        return load_config(folder)
    _, labels, task = read_labels_and_task(folder)
    config = PretrainedConfig(name_or_path=str(folder))
    set_label_names(config, labels, task)
    return config


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer in `folder`; its padding token defaults to the end-of-text token.

    Raises:
        ModelError: It is missing or damaged, or has tokens without an embedding.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise as_resource_error(error) or _unusable_tokenizer_error(
            folder, first_message_line(error)
        ) from error
    # Without files, transformers builds a tokenizer that has special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _unusable_tokenizer_error(folder, "its files are missing.")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"The tokenizer in {folder} has neither a padding nor an end-of-text token."
            )
        tokenizer.pad_token = tokenizer.eos_token
    _check_embedding_rows(folder, tokenizer)
    return tokenizer


def load_classifier(
    folder: Path,
    label_names: tuple[str, ...] | None = None,
    problem_type: str | None = None,
    *,
    allow_new_head: bool = False,
    initial_bias: "np.ndarray | None" = None,
) -> "PreTrainedModel":
    """Load the classifier in `folder`, in float32 and evaluation mode.

    Args:
        folder: A `save_pretrained` folder that `locate_model` returned, which checks for pickles.
        label_names: The names of a new head's outputs, in order.
        problem_type: The `problem_type` of a new head.
        allow_new_head: If the model has no head for as many labels, add one with random weights.
        initial_bias: (outputs,), the bias of a new head's outputs; 0 if left out. From 0, where
            each label is as likely as not, the bias of a rare label would need thousands of small
            steps (Lin et al. 2017, "Focal Loss for Dense Object Detection", section 3.3).

    Raises:
        ModelError: The weights are missing, damaged or not finite, don't fit the configuration,
            or have no classification head although `allow_new_head` is False.
        ResourceError: There is too little memory.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from kdcli.models.padding_invariance import keep_block_sparse_attention

    config = load_config(folder)
    resources.require_memory(
        4 * model_folder_inspection.count_stored_parameters(folder),
        f"The model in {folder}",
        "Use a smaller one.",
    )
    weights = model_folder_inspection.find_weight_files(folder)
    if label_names is not None:
        set_label_names(config, label_names, problem_type)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=weights[0].suffix == ".safetensors",
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:
        fault = ModelError(f"The model in {folder} can't be loaded: {first_message_line(error)}")
        if weights[0].suffix == ".bin":
            fault = ModelError(f"{weights[0]} holds something other than weights.")
        raise as_resource_error(error) or fault from error
    _check_loaded_weights(folder, model, report, allow_new_head=allow_new_head)
    if initial_bias is not None:
        _init_head_bias(initial_bias, model, report)
    keep_block_sparse_attention(model)
    return model.eval()


def has_classification_head(folder: Path) -> bool:
    """Return whether the configuration in `folder` names a classifier's architecture."""
    names = load_config(folder).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def get_label_names(config: "PretrainedConfig") -> tuple[str, ...]:
    """Get the names of a classifier's outputs, in order.

    Raises:
        ModelError: The outputs aren't numbered from 0, or two have the same name.
    """
    id2label, file = config.id2label, Path(config.name_or_path, "config.json")
    if sorted(id2label) != [*range(len(id2label))]:
        raise ModelError(
            f"{file}: id2label names the outputs {abbreviate_list(sorted(id2label), 5)}, "
            f"but {len(id2label)} outputs are numbered from 0 to {len(id2label) - 1}.",
            "Renumber them there, and in label2id.",
        )
    names = tuple(str(id2label[i]) for i in range(len(id2label)))
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ModelError(
            f"{file}: id2label gives two outputs the name {repeated!r}.",
            "Give each its own name there, and in label2id.",
        )
    return names


def _check_embedding_rows(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Check that the model in `folder` has an embedding for every token that can occur.

    Raises:
        ModelError: The tokenizer has tokens for which the embeddings weren't resized.
    """
    rows = model_folder_inspection.read_vocab_size(folder)
    if rows is None:
        return
    without_row = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not without_row:
        return
    # Special tokens that the tokenizer doesn't insert itself serve other uses (masks, images).
    used = {*tokenizer("")["input_ids"], tokenizer.pad_token_id, tokenizer.unk_token_id}
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    spare = ({*tokenizer.all_special_ids} | added) - used
    token = next((token for token, i in without_row.items() if i not in spare), None)
    if token is not None:
        raise ModelError(
            f"{folder}: the tokenizer's token {token!r} has the id {without_row[token]}, but the "
            f"model has {rows} embeddings (vocab_size in config.json).",
            "Resize the embeddings (model.resize_token_embeddings(len(tokenizer))) and save the "
            "model, or restore its original tokenizer.",
        )


def set_label_names(
    config: "PretrainedConfig", label_names: tuple[str, ...], problem_type: str | None
) -> None:
    """Set a classifier's labels, their number, and its problem type."""
    config.problem_type = None  # transformers checks it against the number of labels
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: i for i, name in enumerate(label_names)}
    config.problem_type = problem_type


def check_problem_type(config: "PretrainedConfig", task: Task, model_name: str) -> None:
    """Check that a trained model is for the data's task.

    Args:
        config: The model's configuration.
        task: The data's task.
        model_name: Name of the model in messages.

    Raises:
        ModelError: The model is for another task, or has several outputs for a score.
    """
    stated = config.problem_type
    if stated is not None and stated != task.name:
        raise ModelError(
            f"{model_name} is for {stated}, and the data for {task}: {task.description}.",
            f"If the labels suit that task, set data.task: {stated}; otherwise fine-tune the "
            "model on this data.",
        )
    if task is REGRESSION and config.num_labels != 1:
        raise ModelError(
            f"{model_name} has {config.num_labels} outputs, but the data has one score per text."
        )


def get_model_folder(path: Path) -> Path:
    """Get the model folder that a path belongs to: itself, or that of an exported ONNX file."""
    return path.parent.parent if path.is_file() else path


def count_parameters(model: Any) -> int:
    """Count all parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters())


def get_weights_megabytes(folder: Path) -> float:
    """Get the size of the weights on disk, in megabytes of 1,000,000 bytes."""
    return (
        sum(path.stat().st_size for path in model_folder_inspection.find_weight_files(folder)) / 1e6
    )


def save_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Write a `save_pretrained` folder that plain transformers loads.

    Only the main process writes.
    """
    from kdcli.models.padding_invariance import get_forward_argument_names
    from kdcli.models.sequence_length import NO_LENGTH_LIMIT

    if distributed.is_main_process():
        if tokenizer.is_fast and tokenizer.model_max_length < NO_LENGTH_LIMIT:
            # Clients that read only tokenizer.json must truncate as the model does.
            side = tokenizer.truncation_side
            tokenizer.backend_tokenizer.enable_truncation(
                tokenizer.model_max_length, direction=side
            )
        # Clients that feed a model all that its tokenizer gives fail at an input that it lacks.
        names = [n for n in tokenizer.model_input_names if n in get_forward_argument_names(model)]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _add_standard_entries(model.config, folder / "config.json")
        apply_umask(folder)


def _add_standard_entries(config: "PretrainedConfig", file: Path) -> None:
    """Add entries that other clients read, and that transformers leaves out.

    text-embeddings-inference reads sizes, which DistilBERT calls otherwise; the names of labels are
    left out where they are LABEL_0 and LABEL_1.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    standard: dict[str, Any] = {
        key: getattr(config, key, None) for key in ("hidden_size", "num_hidden_layers")
    }
    standard |= {"id2label": config.id2label, "label2id": config.label2id}
    missing = {key: value for key, value in standard.items() if value and key not in content}
    if missing:
        # Sorted as text, label 10 would precede label 2.
        text = json.dumps(dict(sorted((content | missing).items())), indent=2)
        file.write_text(text + "\n", encoding="utf-8")


def _resolve_local_folder(reference: str) -> Path | None:
    """Resolve a reference to a folder; None for a Hub id."""
    if reference.startswith(_PACKAGE_PREFIX):
        return _resolve_package_folder(reference)
    folder = path_resolution.expand_local_path(reference)
    if folder.is_dir():
        if link := find_escaping_symlink(folder):
            raise ModelError(
                f"{link} is a link to a file outside the model's folder.",
                "Replace the link by the file.",
            )
        return _require_model_folder(folder)
    if folder.exists():
        raise ModelError(f"{reference} is a file; a model is a folder with a config.json.")
    if "://" in reference:
        raise ModelError(f"{reference} is a URL.", "Give a Hub id or a folder.")
    if reference.startswith((".", "/", "~")):
        raise ModelError(f"There is no model folder {reference}.")
    return None


def _unusable_tokenizer_error(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder} has no tokenizer that kd can use: {reason}",
        "Save one beside the weights: tokenizer.save_pretrained(FOLDER).",
    )


def _resolve_package_folder(reference: str) -> Path:
    name, _, rest = reference.removeprefix(_PACKAGE_PREFIX).partition("/")
    try:
        # Looking up a top-level package doesn't import it: none of its code runs.
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
            return _require_model_folder(folder)
    raise ModelError(f"{reference}: the package {name} has no folder {rest}.")


def _require_model_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no model folder: it has no config.json.")
    model_folder_inspection.check_model_folder(folder)
    return folder


def _check_loaded_weights(
    folder: Path, model: Any, loading_info: Mapping[str, Any], *, allow_new_head: bool
) -> None:
    """Raise ModelError for weights that are missing, misshapen or not finite."""
    missing = sorted(loading_info["missing_keys"])
    encoder = [key for key in missing if key.startswith(model.base_model_prefix + ".")]
    if any("pooler" not in key for key in encoder):
        raise ModelError(f"The weights in {folder} lack {encoder[0]} and {len(encoder) - 1} more.")
    for name, shape, expected in sorted(loading_info["mismatched_keys"]):
        if not allow_new_head or name.startswith(model.base_model_prefix + "."):
            raise ModelError(
                f"In {folder}, {name} has the shape {tuple(shape)}, but by config.json it should "
                f"have {tuple(expected)}."
            )
    if missing and not allow_new_head:
        raise ModelError(
            f"The model in {folder} has no trained classification head ({missing[0]} is missing).",
            "To fine-tune it, set teacher.fine_tune in the recipe.",
        )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(
                f"In {folder}, {name} holds values that are no finite numbers.",
                "Use weights from before the training diverged.",
            )


def _init_head_bias(
    initial_bias: "np.ndarray", model: Any, loading_info: Mapping[str, Any]
) -> None:
    import torch

    new = {*loading_info["missing_keys"], *(name for name, *_ in loading_info["mismatched_keys"])}
    biases = [
        parameter
        for name, parameter in model.named_parameters()
        if name in new and name.endswith("bias") and parameter.shape == initial_bias.shape
    ]
    # The bias of the outputs comes last; a pooler's may have the same shape.
    for bias in biases[-1:]:
        bias.data.copy_(torch.as_tensor(initial_bias))
