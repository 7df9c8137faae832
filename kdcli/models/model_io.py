"""From what a person writes for a model to a folder, and from a folder to a model."""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import distributed, hub, paths, resources
from kdcli.errors import ModelError, as_resource_error, first_message_line
from kdcli.models import model_files
from kdcli.pipeline.run_folder import sha256_of_file
from kdcli.safe_files import apply_umask, find_escaping_symlink
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import REGRESSION, Task

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PACKAGE_PREFIX = "package:"


def locate_model(
    reference: str, revision: str | None = None, *, allow_pickle: bool = False
) -> Path:
    """The folder of a model's files, downloaded where need be.

    Args:
        reference: A folder, a Hub id, or `package:NAME[/PATH]`.
        revision: The Hub model's branch, tag or commit.
        allow_pickle: Whether its weights may be a pickle.

    Raises:
        UsageError: Nothing can be called so.
        ModelError: There is no such model, its weights are a pickle, or it can't be used by what
            its files say: see `kdcli.models.files.check`.
        HubError: The Hub can't be reached.
    """
    folder = _resolve_local_folder(reference)
    if folder is None:
        folder = hub.download_model(reference, revision)
        if allow_pickle and not model_files.find_weight_files(folder):
            folder = hub.download_model(reference, revision, allow_pickle=True)
        model_files.check_model_folder(folder)
    pickles = [path.name for path in model_files.find_weight_files(folder) if path.suffix == ".bin"]
    if pickles and not allow_pickle:
        raise ModelError(
            f"The weights of {reference} are a pickle ({pickles[0]}), which can run code.",
            "Where you trust it: --allow-pickle.",
        )
    return folder


def compute_model_fingerprint(reference: str, revision: str | None = None) -> str:
    """What a model is, for the key of what is made from it: no download, no weights loaded.

    A folder is known by its files' content, a Hub model by id and revision (pin a commit where a
    moving branch matters).

    Raises:
        ModelError: There is no such folder or package, or the model in it can't be used.
    """
    folder = _resolve_local_folder(reference)
    if folder is None:
        return f"hub:{reference}@{revision or 'main'}"
    digest = hashlib.sha256()
    weights = model_files.find_weight_files(folder)
    for path in sorted(folder.iterdir()):
        if path in weights or (path.is_file() and path.suffix in {".json", ".txt", ".model"}):
            digest.update(f"{path.name}:{sha256_of_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def find_local_model(reference: str, revision: str | None = None) -> Path | None:
    """The folder of a model's files as far as they are on this disk: nothing is downloaded.

    Raises:
        ModelError: A folder or package that it names isn't there.
    """
    return _resolve_local_folder(reference) or hub.cached_model_folder(reference, revision)


def load_config(folder: Path) -> "PretrainedConfig":
    """The configuration in `folder`.

    Raises:
        ModelError: It is missing, broken, of an architecture that transformers doesn't know, or of
            one that classifies no text.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        fault = ModelError(f"{folder}/config.json can't be used: {first_message_line(error)}")
        raise as_resource_error(error) or fault from error
    if type(config) not in CLASSIFIERS:
        raise ModelError(
            f"{folder}: a model of type {config.model_type} is no text classifier.",
            "Take a text model, such as BERT.",
        )
    # Another file's name: weights are looked for in the usual places alone.
    vars(config).pop("transformers_weights", None)
    return config


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in `folder`.

    Raises:
        ModelError: It is missing or broken.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise as_resource_error(error) or _unusable_tokenizer_error(
            folder, first_message_line(error)
        ) from error
    # Where the files are missing, transformers makes one up that knows its special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _unusable_tokenizer_error(folder, "its files are missing.")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"The tokenizer in {folder} has neither padding nor end-of-text token."
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
    """The model in `folder` with its classification head, in float32 and evaluation mode.

    Args:
        folder: A `save_pretrained` folder, as `locate` gives it: whether its weights may be a
            pickle is decided there.
        label_names: The names of a new head's outputs, in order.
        problem_type: What its outputs are, as transformers calls it.
        allow_new_head: Where it has no head for as many labels, give it one, drawn from torch's random
            generator.
        initial_bias: What a new head says before it has learnt anything, (outputs,): the bias of its
            outputs; left out, 0. From 0, where every label seems to be as likely there as not, a
            rare label's would take thousands of small steps (Lin et al. 2017, "Focal Loss for
            Dense Object Detection", section 3.3).

    Raises:
        ModelError: The weights are missing, broken or no numbers, are no text classifier's, or
            hold no classification head where one is needed.
        MachineError: There is too little memory for them.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from kdcli.models.padding import keep_block_sparse_attention

    config = load_config(folder)
    resources.require_memory(
        4 * model_files.count_stored_parameters(folder),
        f"The model in {folder}",
        "Take a smaller one.",
    )
    weights = model_files.find_weight_files(folder)
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
    """Whether the model in `folder` says of itself that it classifies sequences."""
    names = load_config(folder).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def get_label_names(config: "PretrainedConfig") -> tuple[str, ...]:
    """The names of a classifier's outputs, in order.

    Raises:
        ModelError: They aren't numbered from 0, or two have one name.
    """
    found, file = config.id2label, Path(config.name_or_path, "config.json")
    if sorted(found) != [*range(len(found))]:
        raise ModelError(
            f"{file}: id2label names the outputs {abbreviate_list(sorted(found), 5)}, "
            f"and {len(found)} outputs are numbered from 0 to {len(found) - 1}.",
            "Number them anew there, in label2id too.",
        )
    names = tuple(str(found[i]) for i in range(len(found)))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelError(
            f"{file}: id2label gives two outputs the name {twice!r}.",
            "Give each its own name there, in label2id too.",
        )
    return names


def _check_embedding_rows(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """See that the model in `folder` has an embedding for every token that can occur.

    Raises:
        ModelError: Tokens were added to the tokenizer, and the embeddings weren't resized.
    """
    rows = model_files.read_vocab_size(folder)
    if rows is None:
        return
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return
    # A special token that the tokenizer doesn't put in itself is for other uses (masks, images).
    used = {*tokenizer("")["input_ids"], tokenizer.pad_token_id, tokenizer.unk_token_id}
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    spare = ({*tokenizer.all_special_ids} | added) - used
    token = next((token for token, i in beyond.items() if i not in spare), None)
    if token is not None:
        raise ModelError(
            f"{folder}: the tokenizer's token {token!r} has the id {beyond[token]}, and the model "
            f"has embeddings for {rows} (vocab_size in config.json).",
            "Save the model with as many: model.resize_token_embeddings(len(tokenizer)), or its "
            "own tokenizer files.",
        )


def set_label_names(
    config: "PretrainedConfig", label_names: tuple[str, ...], problem_type: str | None
) -> None:
    """Name a classifier's outputs, in order, and what they are; their number follows."""
    config.problem_type = None  # it is held to the number of outputs, which changes first
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: i for i, name in enumerate(label_names)}
    config.problem_type = problem_type


def check_problem_type(config: "PretrainedConfig", task: Task, model_name: str) -> None:
    """See that a finished model is for the data's task.

    Args:
        config: The model's.
        task: The data's.
        model_name: What to call the model.

    Raises:
        ModelError: It says that it is for another one, or has several outputs for a score.
    """
    stated = config.problem_type
    if stated is not None and stated != task.name:
        raise ModelError(
            f"{model_name} is for {stated}, and the data for {task}: {task.description}.",
            f"Where the labels can be that too, say so (data.task: {stated}); otherwise fine-tune "
            "it on this data.",
        )
    if task is REGRESSION and config.num_labels != 1:
        raise ModelError(
            f"{model_name} has {config.num_labels} outputs, and the data one score a text."
        )


def count_parameters(model: Any) -> int:
    """All parameters, a shared one once."""
    return sum(p.numel() for p in model.parameters())


def get_weights_megabytes(folder: Path) -> float:
    """The weights' size on disk, in megabytes of 1,000,000 bytes."""
    return sum(path.stat().st_size for path in model_files.find_weight_files(folder)) / 1e6


def save_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Write an ordinary `save_pretrained` folder that plain transformers loads.

    Of several processes that hold the same model, the first writes it.
    """
    from kdcli.models.sequence_length import NO_LENGTH_LIMIT

    if distributed.is_main_process():
        if tokenizer.is_fast and tokenizer.model_max_length < NO_LENGTH_LIMIT:
            # Clients that read tokenizer.json alone cut where the model does.
            side = tokenizer.truncation_side
            tokenizer.backend_tokenizer.enable_truncation(
                tokenizer.model_max_length, direction=side
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        apply_umask(folder)


def _resolve_local_folder(reference: str) -> Path | None:
    """The folder that a reference means; None where it is a Hub id."""
    if reference.startswith(_PACKAGE_PREFIX):
        return _resolve_package_folder(reference)
    folder = paths.expand_local_path(reference)
    if folder.is_dir():
        if link := find_escaping_symlink(folder):
            raise ModelError(
                f"{link} is a link to a file outside of the model's folder.",
                "Put the file itself in its place.",
            )
        return _require_model_folder(folder)
    if folder.exists():
        raise ModelError(f"{reference} is a file; a model is a folder with a config.json.")
    if "://" in reference:
        raise ModelError(f"{reference} is a URL.", "Name a Hub id or a folder.")
    if reference.startswith((".", "/", "~")):
        raise ModelError(f"There is no model folder {reference}.")
    return None


def _unusable_tokenizer_error(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"{folder} has no tokenizer that can be used: {reason}",
        "Save one beside the weights: tokenizer.save_pretrained(FOLDER).",
    )


def _resolve_package_folder(reference: str) -> Path:
    name, _, rest = reference.removeprefix(_PACKAGE_PREFIX).partition("/")
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
            return _require_model_folder(folder)
    raise ModelError(f"{reference}: the package {name} has no folder {rest}.")


def _require_model_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no model folder: it has no config.json.")
    model_files.check_model_folder(folder)
    return folder


def _check_loaded_weights(
    folder: Path, model: Any, loading_info: Mapping[str, Any], *, allow_new_head: bool
) -> None:
    """What the configuration wants and the weights don't give, or give without being numbers."""
    missing = sorted(loading_info["missing_keys"])
    encoder = [key for key in missing if key.startswith(model.base_model_prefix + ".")]
    if any("pooler" not in key for key in encoder):
        raise ModelError(f"The weights in {folder} lack {encoder[0]} and {len(encoder) - 1} more.")
    for name, found, wanted in sorted(loading_info["mismatched_keys"]):
        if not allow_new_head or name.startswith(model.base_model_prefix + "."):
            raise ModelError(
                f"In {folder}, {name} has the shape {tuple(found)}, and by config.json it should "
                f"have {tuple(wanted)}."
            )
    if missing and not allow_new_head:
        raise ModelError(
            f"The model in {folder} has no trained classification head ({missing[0]} is missing).",
            "Fine-tune it: give teacher.fine_tune in the recipe.",
        )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(
                f"In {folder}, {name} holds values that are no finite numbers.",
                "Take the weights from before the training that broke them.",
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
    # The outputs' is the last; a pooler's may be as long.
    for bias in biases[-1:]:
        bias.data.copy_(torch.as_tensor(initial_bias))
