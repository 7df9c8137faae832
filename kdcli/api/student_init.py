"""Create untrained students from Python: the function behind `kd init-student`."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from transformers import set_seed

from kdcli.api.progress_reporting import ProgressCallback, choose_reporter, quiet_libraries
from kdcli.api.runs import Overrides, to_overrides, to_reference
from kdcli.data.column_access import sample_texts
from kdcli.errors import UsageError
from kdcli.models import (
    layer_selection,
    layer_stacks,
    model_io,
    tensor_slicing,
    width_and_vocab_pruning,
)
from kdcli.models.padding_invariance import choose_invariant_padding
from kdcli.models.sequence_length import get_max_length
from kdcli.models.student_pruning import (
    SourceModel,
    StudentSummary,
    plan_student_pruning,
    write_pruned_student,
)
from kdcli.pipeline import run_datasets
from kdcli.progress import Reporter
from kdcli.recipe.loading import config_from_flags
from kdcli.recipe.schema import InitStudentCommandConfig
from kdcli.safe_files import raise_if_symlink, replace_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Files of `save_pretrained`, by the kinds of tokenizers.
_STUDENT_FILES = (
    "*.safetensors",
    "*config.json",
    "model.safetensors.index.json",
    "*token*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.spm",
    "chat_template.jinja",
)


@overload
def init_student(
    model: str | Path,
    *,
    output: None = None,
    data: Any = None,
    text: str | None = None,
    overrides: Overrides = (),
    fresh: bool = False,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
    **student: Any,
) -> "PreTrainedModel": ...


@overload
def init_student(
    model: str | Path,
    *,
    output: str | Path,
    data: Any = None,
    text: str | None = None,
    overrides: Overrides = (),
    fresh: bool = False,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
    **student: Any,
) -> Path: ...


def init_student(
    model: str | Path,
    *,
    output: str | Path | None = None,
    data: Any = None,
    text: str | None = None,
    overrides: Overrides = (),
    fresh: bool = False,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
    **student: Any,
) -> "PreTrainedModel | Path":
    """Create an untrained student from some of a model's layers: `kd init-student`.

    Args:
        model: Hub id, folder or `package:NAME/PATH` of the model to cut.
        output: Folder to write student and tokenizer to.
        data: Texts to measure layers or vocabulary on, for `strategy="importance"` or `trim_vocab`.
        text: Column of the texts.
        overrides: Further values by dotted key.
        fresh: Replace `output` if it exists.
        allow_pickle: Allow model weights that are stored as a pickle.
        reporter: Receives progress; by default the logger `kdcli`.
        progress: Called as `progress(stage, done, total, metrics)`, if there is no reporter.
        **student: Keys of a recipe's `student`, such as `drop_every=2` or `keep_layers=[0, 3]`.

    Returns:
        The student, a transformers model; with `output`, the path of its folder.

    Raises:
        KdError: The model can't be cut so, or the texts can't be used.
    """
    keys: dict[str, Any] = {f"student.{key}": value for key, value in student.items()}
    keys |= {} if data is None else {"data.dataset": to_reference(data)}
    keys |= {} if text is None else {"data.text": text}
    changes = [*to_overrides(overrides), *to_overrides(keys)]
    config = config_from_flags(InitStudentCommandConfig, changes)
    with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "student" if output is None else Path(output)
        create_untrained_student(
            str(model),
            config,
            folder,
            choose_reporter(reporter, progress),
            overwrite=fresh,
            allow_pickle=allow_pickle,
        )
        return model_io.load_classifier(folder, allow_new_head=True) if output is None else folder


def create_untrained_student(
    model_reference: str,
    init_config: InitStudentCommandConfig,
    output: Path,
    reporter: Reporter,
    *,
    overwrite: bool,
    dry_run: bool = False,
    show_summary: Callable[[StudentSummary], None] = lambda plan: None,
    allow_pickle: bool = False,
) -> StudentSummary:
    """Prune a student from a model that belongs to no run.

    Args:
        model_reference: Hub id, folder or `package:NAME/PATH` of the model.
        init_config: Which layers, which architecture, how wide; texts to measure on.
        output: The student's folder.
        reporter: Receives progress and notes.
        overwrite: Replace `output` if it exists.
        dry_run: Write nothing.
        show_summary: Called with the summary before anything is written.
        allow_pickle: Whether the model's weights may be a pickle.

    Returns:
        `origin`, one sentence on where its weights come from; `layers` (and `decoder_layers`)
        that were kept; what `width.widths` says; `parameters`, `megabytes` and
        `flops_per_token`; `teacher`, the same of the model; `speedup`, by the work that a token
        is; where there are texts, `agreement`, the share of `texts` that the untrained student
        labels as the model does.

    Raises:
        UsageError: `output` is a file, or is there already, or there are no texts to measure on.
        ModelError: The model isn't there, or can't be cut so.
        DataError: The texts can't be used.
    """
    if init_config.student.family is not None:
        raise UsageError(
            "student.family: kd init-student prunes a model, and builds no other families.",
            "Use kd distill.",
        )
    output = Path(os.path.abspath(output))  # noqa: PTH100 links stay, and are refused
    new_folder = output.with_name(f".{output.name}.new")
    raise_if_symlink(output, new_folder)
    _check_output_folder(output, overwrite=overwrite)
    model_folder = model_io.locate_model(
        model_reference, init_config.student.revision, allow_pickle=allow_pickle
    )
    config = model_io.load_config(model_folder)
    if model_io.has_classification_head(model_folder):
        model_io.get_label_names(config)
    model = tensor_slicing.build_meta_model(config)
    layer_selection.select_layers(init_config.student, layer_stacks.find_layer_stacks(model))
    tokenizer = model_io.load_tokenizer(model_folder)
    sample = (
        None
        if init_config.data is None
        else run_datasets.load_texts_without_labels(init_config.data, reporter)
    )
    texts = None if sample is None else run_datasets.all_texts(sample)
    width_and_vocab = width_and_vocab_pruning.plan_width_and_vocab(
        init_config.student, model, tokenizer, texts
    )
    if init_config.student.strategy == "importance" or not dry_run:
        set_seed(0)
        model = model_io.load_classifier(model_folder, allow_new_head=True)
        choose_invariant_padding(
            model, tokenizer, model_reference, *([] if sample is None else [sample_texts(sample)]),
            max_length=get_max_length(model, tokenizer, None),
        )  # fmt: skip
    if not model_io.has_classification_head(model_folder):
        reporter.info(
            f"{model_reference} has no classification head: the student's is new, and untrained "
            f"({model.config.num_labels} labels)."
        )
    source_model = SourceModel(model_reference, model_folder, model, tokenizer, sample)
    start, is_measured = time.monotonic(), init_config.student.strategy == "importance"
    if is_measured:
        reporter.start("student", "leave out layers on trial")
    student_plan = plan_student_pruning(
        source_model, init_config.student, width_and_vocab, reporter.advance
    )
    if is_measured:
        reporter.finish("student", "its layers are chosen", time.monotonic() - start)
    show_summary(student_plan.summary)
    if dry_run:
        return student_plan.summary
    shutil.rmtree(new_folder, ignore_errors=True)
    try:
        result = student_plan.summary | write_pruned_student(source_model, student_plan, new_folder)
        replace_folder(new_folder, output)
    finally:
        shutil.rmtree(new_folder, ignore_errors=True)
    return result


def _check_output_folder(output: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that can't be replaced without losing the user's files.

    Raises:
        UsageError: The folder is a file, exists, holds other files than a student's, or is the
            working folder or one above it.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"--output {output} is a file, not a folder.")
    if not overwrite:
        raise UsageError(f"{output} exists.", "Name another --output, or replace it: --fresh.")
    if Path.cwd().is_relative_to(output.resolve()):
        raise UsageError(
            f"--output {output}: you are in this folder, and --fresh would replace it.",
            "Name a new folder: --output student.",
        )
    for path in sorted(output.iterdir()):
        if path.is_dir() or not any(path.match(pattern) for pattern in _STUDENT_FILES):
            raise UsageError(
                f"{path} is no file of an untrained student, and --fresh would delete it.",
                "Move it away, or name another --output.",
            )
