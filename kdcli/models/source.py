"""From what a person writes for a model to a folder, and from a folder to a model."""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import hub, machine, paths, processes
from kdcli.errors import ModelError, first_line, of_machine
from kdcli.models import files
from kdcli.run import file_digest
from kdcli.safe_files import as_umask_says, link_out_of
from kdcli.tasks import REGRESSION, Task

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PACKAGE = "package:"


def locate(reference: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
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
    folder = _local(reference)
    if folder is None:
        folder = hub.download_model(reference, revision)
        if allow_pickle and not files.weights(folder):
            folder = hub.download_model(reference, revision, pickled=True)
        files.check(folder)
    pickles = [path.name for path in files.weights(folder) if path.suffix == ".bin"]
    if pickles and not allow_pickle:
        raise ModelError(
            f"The weights of {reference} are a pickle ({pickles[0]}), which can run code.",
            "Where you trust it: --allow-pickle.",
        )
    return folder


def identity(reference: str, revision: str | None = None) -> str:
    """What a model is, for the key of what is made from it: no download, no weights loaded.

    A folder is known by its files' content, a Hub model by id and revision (pin a commit where a
    moving branch matters).

    Raises:
        ModelError: There is no such folder or package, or the model in it can't be used.
    """
    folder = _local(reference)
    if folder is None:
        return f"hub:{reference}@{revision or 'main'}"
    digest = hashlib.sha256()
    weights = files.weights(folder)
    for path in sorted(folder.iterdir()):
        if path in weights or (path.is_file() and path.suffix in {".json", ".txt", ".model"}):
            digest.update(f"{path.name}:{file_digest(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def at_hand(reference: str, revision: str | None = None) -> Path | None:
    """The folder of a model's files as far as they are on this disk: nothing is downloaded.

    Raises:
        ModelError: A folder or package that it names isn't there.
    """
    return _local(reference) or hub.cached_model(reference, revision)


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
        fault = ModelError(f"{folder}/config.json can't be used: {first_line(error)}")
        raise of_machine(error) or fault from error
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
        raise of_machine(error) or _no_tokenizer(folder, first_line(error)) from error
    # Where the files are missing, transformers makes one up that knows its special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _no_tokenizer(folder, "its files are missing.")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"The tokenizer in {folder} has neither padding nor end-of-text token."
            )
        tokenizer.pad_token = tokenizer.eos_token
    _refuse_missing_rows(folder, tokenizer)
    return tokenizer


def load_classifier(
    folder: Path,
    labels: tuple[str, ...] | None = None,
    problem_type: str | None = None,
    *,
    fresh_head: bool = False,
    prior: "np.ndarray | None" = None,
) -> "PreTrainedModel":
    """The model in `folder` with its classification head, in float32 and evaluation mode.

    Args:
        folder: A `save_pretrained` folder, as `locate` gives it: whether its weights may be a
            pickle is decided there.
        labels: The names of a new head's outputs, in order.
        problem_type: What its outputs are, as transformers calls it.
        fresh_head: Where it has no head for as many labels, give it one, drawn from torch's random
            generator.
        prior: What a new head says before it has learnt anything, (outputs,): the bias of its
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

    from kdcli.models.padding import reset_attention

    config = load_config(folder)
    machine.require_memory(4 * files.count(folder), f"The model in {folder}", "Take a smaller one.")
    weights = files.weights(folder)
    if labels is not None:
        set_labels(config, labels, problem_type)
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
        fault = ModelError(f"The model in {folder} can't be loaded: {first_line(error)}")
        if weights[0].suffix == ".bin":
            fault = ModelError(f"{weights[0]} holds something other than weights.")
        raise of_machine(error) or fault from error
    _refuse_gaps(folder, model, report, fresh_head=fresh_head)
    if prior is not None:
        _start_from(prior, model, report)
    reset_attention(model)
    return model.eval()


def has_head(folder: Path) -> bool:
    """Whether the model in `folder` says of itself that it classifies sequences."""
    names = load_config(folder).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def labels_of(config: "PretrainedConfig") -> tuple[str, ...]:
    """The names of a classifier's outputs, in order.

    Raises:
        ModelError: They aren't numbered from 0, or two have one name.
    """
    found, file = config.id2label, Path(config.name_or_path, "config.json")
    if sorted(found) != [*range(len(found))]:
        raise ModelError(
            f"{file}: id2label names the outputs {', '.join(map(str, sorted(found)[:5]))}, …, "
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


def _refuse_missing_rows(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """See that the model in `folder` has an embedding for every token that can occur.

    Raises:
        ModelError: Tokens were added to the tokenizer, and the embeddings weren't resized.
    """
    rows = files.vocabulary(folder)
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


def set_labels(
    config: "PretrainedConfig", labels: tuple[str, ...], problem_type: str | None
) -> None:
    """Name a classifier's outputs, in order, and what they are; their number follows."""
    config.problem_type = None  # it is held to the number of outputs, which changes first
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    config.problem_type = problem_type


def refuse_other_task(config: "PretrainedConfig", task: Task, name: str) -> None:
    """See that a finished model is for the data's task.

    Args:
        config: The model's.
        task: The data's.
        name: What to call the model.

    Raises:
        ModelError: It says that it is for another one, or has several outputs for a score.
    """
    stated = config.problem_type
    if stated is not None and stated != task.name:
        raise ModelError(
            f"{name} is for {stated}, and the data for {task}: {task.words}.",
            f"Where the labels can be that too, say so (data.task: {stated}); otherwise fine-tune "
            "it on this data.",
        )
    if task is REGRESSION and config.num_labels != 1:
        raise ModelError(f"{name} has {config.num_labels} outputs, and the data one score a text.")


def count_parameters(model: Any) -> int:
    """All parameters, a shared one once."""
    return sum(p.numel() for p in model.parameters())


def megabytes(folder: Path) -> float:
    """The weights' size on disk, in megabytes of 1,000,000 bytes."""
    return sum(path.stat().st_size for path in files.weights(folder)) / 1e6


def save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write an ordinary `save_pretrained` folder that plain transformers loads.

    Of several processes that hold the same model, the first writes it.
    """
    from kdcli.models.positions import NO_LIMIT

    if processes.is_first():
        if tokenizer.is_fast and tokenizer.model_max_length < NO_LIMIT:
            # Clients that read tokenizer.json alone cut where the model does.
            side = tokenizer.truncation_side
            tokenizer.backend_tokenizer.enable_truncation(
                tokenizer.model_max_length, direction=side
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        as_umask_says(folder)


def _local(reference: str) -> Path | None:
    """The folder that a reference means; None where it is a Hub id."""
    if reference.startswith(_PACKAGE):
        return _in_package(reference)
    folder = paths.local(reference)
    if folder.is_dir():
        if link := link_out_of(folder):
            raise ModelError(
                f"{link} is a link to a file outside of the model's folder.",
                "Put the file itself in its place.",
            )
        return _checked(folder)
    if folder.exists():
        raise ModelError(f"{reference} is a file; a model is a folder with a config.json.")
    if "://" in reference:
        raise ModelError(f"{reference} is a URL.", "Name a Hub id or a folder.")
    if reference.startswith((".", "/", "~")):
        raise ModelError(f"There is no model folder {reference}.")
    return None


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
    files.check(folder)
    return folder


def _refuse_gaps(folder: Path, model: Any, report: Mapping[str, Any], *, fresh_head: bool) -> None:
    """What the configuration wants and the weights don't give, or give without being numbers."""
    missing = sorted(report["missing_keys"])
    encoder = [key for key in missing if key.startswith(model.base_model_prefix + ".")]
    if any("pooler" not in key for key in encoder):
        raise ModelError(f"The weights in {folder} lack {encoder[0]} and {len(encoder) - 1} more.")
    for name, found, wanted in sorted(report["mismatched_keys"]):
        if not fresh_head or name.startswith(model.base_model_prefix + "."):
            raise ModelError(
                f"In {folder}, {name} has the shape {tuple(found)}, and by config.json it should "
                f"have {tuple(wanted)}."
            )
    if missing and not fresh_head:
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


def _start_from(prior: "np.ndarray", model: Any, report: Mapping[str, Any]) -> None:
    import torch

    new = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    biases = [
        parameter
        for name, parameter in model.named_parameters()
        if name in new and name.endswith("bias") and parameter.shape == prior.shape
    ]
    # The outputs' is the last; a pooler's may be as long.
    for bias in biases[-1:]:
        bias.data.copy_(torch.as_tensor(prior))
