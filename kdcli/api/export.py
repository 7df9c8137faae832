"""Export models from Python: the function behind `kd export`."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdcli.api.evaluation import common_task, load_evaluation_config
from kdcli.api.progress_reporting import ProgressCallback, choose_reporter, quiet_libraries
from kdcli.api.runs import Overrides, to_overrides, to_reference
from kdcli.errors import UsageError
from kdcli.evaluation.calibration import inference_config
from kdcli.evaluation.predict.calibrated_predictions import VALIDATION
from kdcli.models import model_io
from kdcli.models.padding_invariance import choose_invariant_padding
from kdcli.models.sequence_length import get_max_length
from kdcli.onnx_export import container, onnx_folder
from kdcli.onnx_export.precision_gates import (
    ExportResult,
    ExportTexts,
    export_to_onnx,
    parse_gates,
)
from kdcli.pipeline import run_datasets
from kdcli.pipeline.run_folder import RECIPE_FILE
from kdcli.progress import Reporter
from kdcli.recipe.export import ExportConfig, Format, Precision
from kdcli.recipe.overrides import Override
from kdcli.safe_files import raise_if_symlink, replace_folder

# Written by kd and kept: thresholds and card of the model.
_EXTRA_FILES = (inference_config.INFERENCE_CONFIG_FILENAME, "README.md")


def export(
    model: str | Path,
    output: str | Path | None = None,
    *,
    format: Format | None = None,
    precision: Precision | None = None,
    max_drop: Sequence[str] | None = None,
    data: Any = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    overrides: Overrides = (),
    docker: bool = False,
    fresh: bool = False,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Export a classifier to ONNX or OpenVINO, for runtimes without PyTorch: `kd export`.

    Args:
        model: A run's folder, whose student is exported; a model folder, Hub id or
            `package:NAME/PATH`.
        output: Folder to write; by default NAME-onnx.
        format: `onnx` (the default) or `openvino`; model.onnx is always written too.
        precision: `int8`, `int8-weights`, `float16` or `float32`. A precision that misses a gate is
            replaced by a safer one. By default `int8` if there are texts to check it on.
        max_drop: The gates: largest drops of validation metrics, like `accuracy=0.005`.
        data: Texts with labels to check the precision on; by default those of the run.
        text: Column of the texts, or two columns of pairs.
        label: Column of the labels.
        overrides: Further values of the data by dotted key.
        docker: Add a Dockerfile and what it needs to build an image that serves the model.
        fresh: Replace `output` if it exists.
        allow_pickle: Allow model weights that are stored as a pickle.
        reporter: Receives progress; by default the logger `kdcli`.
        progress: Called as `progress(stage, done, total, metrics)`, if there is no reporter.

    Returns:
        The folder: for `kdcli.runtime.Classifier`, transformers, transformers.js and optimum.

    Raises:
        KdError: The model can't be exported, or the texts can't be used.
    """
    keys = {
        "data.dataset": to_reference(data),
        "data.text": text if text is None or isinstance(text, str) else list(text),
        "data.label": label,
    }
    given = {key: value for key, value in keys.items() if value is not None}
    with quiet_libraries():
        folder, _ = export_model(
            str(model),
            None if output is None else Path(output),
            [*to_overrides(given), *to_overrides(overrides)],
            choose_reporter(reporter, progress),
            export_format=format or "onnx",
            precision=precision,
            max_drop=None if max_drop is None else tuple(max_drop),
            docker=docker,
            fresh=fresh,
            allow_pickle=allow_pickle,
        )
    return folder


def export_model(
    reference: str,
    output: Path | None,
    overrides: Sequence[Override],
    reporter: Reporter,
    *,
    export_format: Format = "onnx",
    precision: Precision | None = None,
    max_drop: tuple[str, ...] | None = None,
    docker: bool = False,
    fresh: bool = False,
    allow_pickle: bool = False,
) -> tuple[Path, ExportResult]:
    """Export a classifier; see `export`.

    Returns:
        The folder, and what was written.
    """
    onnx_folder.require_export_packages(export_format)
    if docker:
        container.require_serving_packages(export_format)
    run = Path(reference)
    is_run = (run / RECIPE_FILE).is_file() and not (run / "config.json").is_file()
    output = Path(f"{run.resolve().name}-onnx" if output is None else output).resolve()
    folder = model_io.locate_model(
        str(run / "student") if is_run else reference, allow_pickle=allow_pickle
    )
    _check_output(output, folder, fresh=fresh)
    texts = None
    is_checked = precision != "float32" or export_format != "onnx"
    if is_checked and (overrides or is_run or (run.parent / RECIPE_FILE).is_file()):
        texts = _load_texts(reference, folder, overrides, reporter)
    if texts is None and precision != "float32" and (precision is not None or max_drop):
        raise UsageError(
            f"{reference} belongs to no run: a precision has to be checked on texts with labels.",
            "Name them: --data DATASET. Or take --precision float32.",
        )
    config = ExportConfig(
        format=export_format,
        precision=precision or ("float32" if texts is None else "int8"),
        max_drop=max_drop,
    )
    if texts is not None:
        parse_gates(config, texts.dataset_splits.task)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        new_folder = Path(scratch) / output.name
        _copy_model(reference, folder, new_folder, texts)
        reporter.start("export", f"export {reference} to {onnx_folder.FORMAT_NAMES[export_format]}")
        result = export_to_onnx(new_folder, config, texts, reporter)
        onnx_folder.write_requirements(new_folder, export_format)
        if docker:
            container.write_container_files(
                new_folder, _model_name(reference), result.file, export_format
            )
        _check_output(output, folder, fresh=fresh)
        replace_folder(new_folder, output)
    return output, result


def _model_name(reference: str) -> str:
    """Return the name of a run, a folder or a repository."""
    path = Path(reference).resolve()
    return path.parent.name if path.name == "student" else path.name


def _check_output(output: Path, model_folder: Path, *, fresh: bool) -> None:
    """Refuse a folder that is there already, or that holds the model or the working folder."""
    raise_if_symlink(output)
    if any(path.resolve().is_relative_to(output) for path in (model_folder, Path.cwd())):
        raise UsageError(f"--output {output} holds the model or the working folder.")
    if output.exists() and (not fresh or not output.is_dir()):
        raise UsageError(f"{output} exists.", "Name another --output, or replace it: --fresh.")


def _load_texts(
    reference: str, folder: Path, overrides: Sequence[Override], reporter: Reporter
) -> ExportTexts:
    """Load the texts to check a precision on: a validation split, or the only split."""
    config, of_run = load_evaluation_config([reference], overrides)
    if config.data.task is None and (task := common_task([folder])):
        data = config.data.model_copy(update={"task": task})
        config = config.model_copy(update={"data": data})
    corpus = run_datasets.load_recipe_dataset(config, reporter, for_training=of_run)
    if VALIDATION not in corpus.splits:
        if len(corpus.splits) > 1:
            raise UsageError(
                f"The data has no validation split to check the precision on, but "
                f"{', '.join(corpus.splits)}.",
                "Name one: --set data.splits.validation=NAME.",
            )
        corpus = replace(corpus, splits={VALIDATION: next(iter(corpus.splits.values()))})
    corpus = corpus.with_model_label_names(model_io.get_label_names(model_io.load_config(folder)))
    evaluate = config.evaluate
    if evaluate.out_of_scope not in corpus.label_names:
        evaluate = evaluate.model_copy(update={"out_of_scope": None})
    return ExportTexts(corpus, evaluate, config.data.max_length, config.data.truncation)


def _copy_model(reference: str, folder: Path, new_folder: Path, texts: ExportTexts | None) -> None:
    """Write the model in float32, with its task, and a padding that changes no logits."""
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    onnx_folder.require_fast_tokenizer(tokenizer, reference)
    if model.config.problem_type is None and texts is not None:
        model.config.problem_type = texts.dataset_splits.task.name
    saved = inference_config.load_input_truncation(folder)
    limit = get_max_length(model, tokenizer, saved.max_length)
    tokenizer.model_max_length = limit
    choose_invariant_padding(
        model, tokenizer, reference, max_length=limit, truncation=saved.truncate
    )
    model_io.save_model(model, tokenizer, new_folder)
    for name in _EXTRA_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, new_folder / name)
