"""Write a recipe for new data, with the reason for each guess."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcli import path_resolution
from kdcli.data import dataset_loading, schema_inference
from kdcli.data.checks import split_statistics
from kdcli.data.labels.label_matching import are_default_label_names, match_labels
from kdcli.data.readers import data_files, registry, split_files
from kdcli.errors import DataError, ModelError, RecipeError
from kdcli.models import model_io, tensor_slicing
from kdcli.models.sequence_length import get_max_length
from kdcli.progress import Reporter
from kdcli.recipe import strict_yaml
from kdcli.recipe.data import DataConfig
from kdcli.recipe.loading import load_recipe
from kdcli.recipe.schema import Recipe
from kdcli.safe_files import write_text_atomically
from kdcli.sanitize import abbreviate_list, printable
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS

DEFAULT_TEACHER = "google-bert/bert-base-uncased"
_MAX_ROWS_READ = 20_000
_DEFAULT_LENGTH_LIMIT = 512
_LENGTH_PERCENTILE = 99
_TOKENS_PER_WORD, _SPECIAL_TOKENS = 1.5, 3
_LENGTH_MULTIPLE, _MIN_LENGTH = 8, 16
# More texts need fewer epochs.
_EPOCHS_BY_DATASET_SIZE = ((20_000, 5), (200_000, 3))
# By hidden size, for teacher and student: measured with MiniLM and BERT-base.
_DEFAULT_HIDDEN_SIZE = 768
_LEARNING_RATES_BY_HIDDEN_SIZE = (
    (512, (1e-4, 3e-4)),
    (_DEFAULT_HIDDEN_SIZE, (5e-5, 1e-4)),
    (math.inf, (2e-5, 5e-5)),
)
# The best losses in docs/concepts/accuracy.md.
_DEFAULT_LOSSES = [
    {"kind": "soft_targets", "weight": 0.5, "temperature": 2.0},
    {"kind": "cross_entropy", "weight": 0.5},
    {"kind": "hidden_mse", "weight": 10.0},
]
_MAX_LABELS_SHOWN = 6
# Every how many layers one is dropped, whether the student is exported, and a description.
AIMS: Mapping[str, tuple[int, bool, str]] = {
    "accurate": (3, False, "two thirds of the teacher's layers"),
    "balanced": (2, False, "half of the teacher's layers"),
    "fast": (2, True, "half of the teacher's layers, and an ONNX file in 8 bits"),
}


@dataclass(frozen=True)
class RecipeRequest:
    """Settings that the user chose.

    Attributes:
        data: A file, a pattern, a folder or a Hub id.
        config: The Hub data set's configuration.
        text: Columns of the texts, one or two; empty to infer them.
        label: Column of the labels; None to infer it.
        teacher: The teacher's model.
        aim: Key of `AIMS`: how small the student is to be.
    """

    data: str
    config: str | None = None
    text: Sequence[str] = ()
    label: str | None = None
    teacher: str = DEFAULT_TEACHER
    aim: str = "balanced"


@dataclass
class _YamlSection:
    """Lines of a section of the recipe."""

    lines: list[str] = field(default_factory=list)

    def add(self, key: str, value: Any, comment: str = "") -> None:
        self.lines += [f"# {printable(comment)}"] if comment else []
        self.lines += strict_yaml.dump_yaml({key: value}).splitlines()

    def under_key(self, key: str) -> str:
        return "\n".join([f"{key}:", *(f"  {line}" for line in self.lines)])


def recipe_for_data(request: RecipeRequest, reporter: Reporter) -> Path:
    """Write the recipe of `kd distill DATA`, or take the one that an earlier command wrote.

    The recipe lies beside a file, and in the working folder for other data.

    Args:
        request: The user's settings.
        reporter: Told where the recipe is, and what was guessed.

    Returns:
        Path of the recipe.

    Raises:
        RecipeError: There is another recipe of this name.
        DataError: The data can't be read, or its columns can't be inferred.
        KdError: The teacher can't be used.
    """
    local = path_resolution.expand_local_path(request.data)
    folder = local.parent if local.is_file() else Path()
    path = folder / f"{_dataset_stem(request.data)}.yaml"
    is_new = not path.exists()
    if is_new:
        if request.teacher != DEFAULT_TEACHER:
            model_io.locate_model(request.teacher)  # what it is decides whether labels are needed
        write_text_atomically(path, generate_recipe(request, path))
    recipe = load_recipe(str(path))
    if not is_new and not _agrees(recipe, request):
        raise RecipeError(
            f"{path} exists, and is for other data, columns or another teacher.",
            f"Run it as it is: kd distill {path}; or move it away.",
        )
    teacher = recipe.white_box_teacher
    facts = [
        f"text: {' and '.join(recipe.data.text_columns)}",
        f"label: {', '.join(recipe.data.label_columns) or 'none, the teacher labels the texts'}",
        f"teacher: {teacher.model}{', fine-tuned first' if teacher.fine_tune else ''}"
        if teacher
        else "",
        f"at most {recipe.data.max_length} tokens",
    ]
    state = "is new; it guesses" if is_new else "was written before, and says"
    reporter.info(f"The recipe {path} {state}: {'; '.join(filter(None, facts))}. Edit it there.")
    return path


def _agrees(recipe: Recipe, request: RecipeRequest) -> bool:
    """Return whether a recipe is what the user asks for, as far as the user said it."""
    of_recipe, asked = (
        path_resolution.expand_local_path(d) for d in (recipe.data.dataset, request.data)
    )
    teacher = recipe.white_box_teacher
    local = path_resolution.expand_local_path(request.teacher)
    model = str(local.resolve()) if local.exists() else request.teacher
    return (
        of_recipe.resolve() == asked.resolve()
        and (not request.text or tuple(request.text) == recipe.data.text_columns)
        and request.label in (None, recipe.data.label)
        and (request.teacher == DEFAULT_TEACHER or (teacher is not None and teacher.model == model))
    )


def guess_columns(request: RecipeRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of texts and of labels that the recipe of this request names.

    Raises:
        DataError: The data can't be read, or its columns can't be inferred.
    """
    written = strict_yaml.parse_yaml(generate_recipe(request, Path("recipe.yaml")), "recipe")
    data = DataConfig.model_validate(written.value["data"])
    return data.text_columns, data.label_columns


def generate_recipe(request: RecipeRequest, recipe_path: Path) -> str:
    """Return a recipe as YAML, with each guess explained above its line.

    Args:
        request: The user's settings.
        recipe_path: Path of the recipe; paths of data below its folder are relative to it.

    Raises:
        DataError: The data can't be read, or its columns can't be inferred.
        RemoteServiceError: The Hub can't be reached for the data.
    """
    spec = DataConfig(dataset=request.data, config=request.config)
    notes: list[str] = []
    found = dataset_loading.find_splits(spec, notes)
    rows = {name: _first_rows(split, notes) for name, split in found.items()}
    parts = _map_splits(spec, found, rows)
    train = rows[parts["train"]]
    if not train:
        raise DataError(f"{request.data} is empty: it holds no rows.")
    typed = not any(
        isinstance(split, list) and data_files.stores_all_cells_as_text(split[0])
        for split in found.values()
    )
    text, columns, labels = _infer_columns(request, [*rows.values()], train, typed=typed)
    if labels.task is SINGLE_LABEL and len(labels.names) == 1:
        raise DataError(
            f"{request.data}: every text has the same label, {labels.names[0]}; nothing can be "
            "learnt from that.",
            "Add texts of other labels, or name another column: --label COLUMN.",
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", _dataset_stem(request.data)).strip("-.") or "data"
    data = _dataset_section(request, recipe_path, len(train), notes)
    _add_text_columns(data, text, stated=bool(request.text))
    _add_label_columns(data, columns, labels)
    own: dict[str, str | None] = dict(parts)
    if columns and "test" in parts and not _has_labels(rows[parts["test"]], columns):
        own["test"] = None
    _add_splits(data, own)
    length, why = _suggest_max_length(request.teacher, train, text)
    data.add("max_length", length, why)
    _, exports, _ = AIMS[request.aim]
    head = _YamlSection(
        ["# Written by kd recipe new: what it guessed, and why, stands above the lines."]
    )
    head.add("name", f"kd-{name}"[:96])
    teacher = _training_sections(request, labels, len(train), length, has_labels=bool(columns))
    sections = [
        "\n".join(head.lines),
        data.under_key("data"),
        *teacher,
        *_evaluate_section(labels, own),
        *(["export: {}  # ONNX, in 8 bits where the accuracy allows it"] if exports else []),
    ]
    return "\n\n".join(sections) + "\n"


def _first_rows(split: Any, notes: list[str]) -> list[dict[str, Any]]:
    if isinstance(split, list):
        return data_files.read_first_rows(split, _MAX_ROWS_READ, notes)
    return data_files.first_dataset_rows(split, _MAX_ROWS_READ)


def _has_labels(rows: schema_inference.SampleRows, columns: Sequence[str]) -> bool:
    return schema_inference.has_any_label(row.get(name) for row in rows for name in columns)


def _infer_columns(
    request: RecipeRequest,
    splits: Sequence[schema_inference.SampleRows],
    train: schema_inference.SampleRows,
    *,
    typed: bool,
) -> tuple[tuple[str, ...], tuple[str, ...], schema_inference.InferredLabels]:
    """Return the columns of texts and labels, and the labels; those of the teacher without any.

    A finished classifier needs no labels: a column that holds none of its labels is left out.
    """
    finished = _finished_classifier_labels(request.teacher)
    try:
        text, columns = _text_and_label_columns(request, train)
    except DataError:
        if finished is None or request.label is not None:
            raise
        text, columns = _text_columns(request, train), ()
    if request.label is None:
        _refuse_missing_header(request.data, train, (*text, *columns))
    if columns:
        labelled = [row for rows in splits if _has_labels(rows, columns) for row in rows]
        labels = schema_inference.infer_task_and_labels(labelled, columns, cells_are_typed=typed)
        if finished is None or request.label is not None or {*labels.names} <= {*finished.names}:
            return text, columns, labels
    assert finished is not None
    return text, (), finished


def _finished_classifier_labels(teacher: str) -> schema_inference.InferredLabels | None:
    """Return task and labels of a teacher on this disk that is a classifier with named labels."""
    found = _cached_config_and_tokenizer(teacher)
    if found is None or not _has_classification_head(found[0]):
        return None
    names = model_io.get_label_names(found[0])
    task = TASKS.get(found[0].problem_type, REGRESSION if len(names) == 1 else SINGLE_LABEL)
    return None if are_default_label_names(names) else schema_inference.InferredLabels(task, names)


def _refuse_missing_header(
    data: str, rows: schema_inference.SampleRows, columns: Sequence[str]
) -> None:
    """Refuse data whose column names look like a row: its label or text occurs among the values."""
    for column in columns:
        values = {str(row[column]).strip() for row in rows if row.get(column) is not None}
        if column.strip() in values:
            raise DataError(
                f"{data} seems to have no header: its first line names a column {column!r}, which "
                "is also one of that column's values.",
                "Add a first line such as text,label; or, if it is a header, name the columns: "
                "--text COLUMN --label COLUMN.",
            )


def _map_splits(
    spec: DataConfig, found: Mapping[str, Any], rows: Mapping[str, Sequence[Any]]
) -> dict[str, str]:
    parts = {
        part: name for part, name in dataset_loading.assign_split_roles(spec, found) if rows[name]
    }
    if "train" not in parts:
        if len(found) > 1:
            raise DataError(
                f"{spec.dataset} has no split train; there is {', '.join(found)}.",
                "Write a recipe that says which is which: data.splits.",
            )
        parts["train"] = next(iter(found))
    return parts


def _text_and_label_columns(
    request: RecipeRequest, rows: schema_inference.SampleRows
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for flag, columns in (("--text", request.text), ("--label", filter(None, [request.label]))):
        for column in columns:
            if column not in rows[0]:
                raise DataError(
                    f"{flag}: there is no column {column} in {request.data}.",
                    f"Its columns: {', '.join(rows[0])}.",
                )
    text = _text_columns(request, rows)
    return text, (request.label,) if request.label else schema_inference.infer_label_columns(
        rows, request.data, text
    )


def _text_columns(request: RecipeRequest, rows: schema_inference.SampleRows) -> tuple[str, ...]:
    return tuple(request.text) or schema_inference.infer_text_columns(
        rows, request.data, request.label
    )


def _dataset_section(
    request: RecipeRequest, recipe_path: Path, row_count: int, notes: Sequence[str]
) -> _YamlSection:
    data = _YamlSection()
    looked_at = (
        f"The first {row_count:,} rows"
        if row_count == _MAX_ROWS_READ
        else f"All {row_count:,} rows of train"
    )
    data.lines += [f"# {printable(note)}" for note in notes]
    data.add(
        "dataset", _relative_dataset_path(request.data, recipe_path), f"{looked_at} were looked at."
    )
    if request.config is not None:
        data.add("config", request.config)
    return data


def _add_text_columns(section: _YamlSection, text: Sequence[str], *, stated: bool) -> None:
    kind = "Strings that mostly differ from row to row." if len(text) == 1 else "A pair of texts."
    section.add("text", _single_or_list(text), "As --text says." if stated else kind)


def _add_label_columns(
    section: _YamlSection, columns: Sequence[str], labels: schema_inference.InferredLabels
) -> None:
    names = labels.names
    if not columns:
        section.add(
            "label", None, "No column holds the teacher's labels: its predictions take their place."
        )
        return
    what = f"{labels.reason} " if labels.reason else ""
    what += f"{len(names):,} labels: " if names else ""
    what += abbreviate_list(names, _MAX_LABELS_SHOWN)
    if labels.task is MULTI_LABEL:
        what += "; a text may have any number of them."
    section.add("label", _single_or_list(columns), what)
    if labels.separator is not None:
        section.add("label_separator", labels.separator)
    if labels.task is not SINGLE_LABEL or labels.reason:
        section.add("task", labels.task.name)


def _single_or_list(columns: Sequence[str]) -> str | list[str]:
    return columns[0] if len(columns) == 1 else list(columns)


def _relative_dataset_path(data: str, recipe_path: Path) -> str:
    if not split_files.is_local_dataset(DataConfig(dataset=data)):
        return data
    path = path_resolution.expand_local_path(data).resolve()
    base = recipe_path.resolve().parent
    return str(path.relative_to(base)) if path.is_relative_to(base) and path != base else str(path)


def _dataset_stem(data: str) -> str:
    name = (
        Path(data).resolve().name
        if split_files.is_local_dataset(DataConfig(dataset=data))
        else data
    )
    name = name.rpartition("/")[2]
    return name.partition(".")[0] if registry.file_format(Path(name)) else name


def _add_splits(section: _YamlSection, parts: Mapping[str, str | None]) -> None:
    if "validation" not in parts:
        section.add(
            "validation_fraction", 0.1, "There is no validation split: a part of train is it."
        )
    if dict(parts) == {"train": "train"}:
        return
    why = "The parts, as they are called there."
    if parts.get("test", "") is None:
        why = (
            "The test texts have no labels: nothing can be measured on them. The finished student "
            "can label them."
        )
    section.add("splits", dict(parts), why)


def _suggest_max_length(
    teacher: str, rows: schema_inference.SampleRows, text: Sequence[str]
) -> tuple[int, str]:
    texts = [[str(row[column] or "") for row in rows] for column in text]
    pairs = texts[1] if len(texts) > 1 else None
    if found := _cached_config_and_tokenizer(teacher):
        config, tokenizer = found
        limit, unit = (
            get_max_length(tensor_slicing.build_meta_model(config), tokenizer, None),
            "tokens",
        )
        long = float(
            np.percentile(
                split_statistics.token_length_counter(tokenizer)(texts[0], pairs)[0],
                _LENGTH_PERCENTILE,
            )
        )
        tokens = long
    else:
        limit, unit = _DEFAULT_LENGTH_LIMIT, "words"
        long = float(
            np.percentile(split_statistics.count_words(texts[0], pairs)[0], _LENGTH_PERCENTILE)
        )
        tokens = _TOKENS_PER_WORD * long + _SPECIAL_TOKENS
    rounded = _LENGTH_MULTIPLE * int(np.ceil(tokens / _LENGTH_MULTIPLE))
    why = f"{_LENGTH_PERCENTILE} % of the texts have at most {long:.0f} {unit}."
    return min(max(rounded, _MIN_LENGTH), limit), why


def _cached_config_and_tokenizer(teacher: str) -> tuple[Any, Any] | None:
    try:
        found = model_io.find_local_model(teacher)
        return (
            None if found is None else (model_io.load_config(found), model_io.load_tokenizer(found))
        )
    except ModelError:
        return None


def _training_sections(
    request: RecipeRequest,
    labels: schema_inference.InferredLabels,
    row_count: int,
    max_length: int,
    *,
    has_labels: bool,
) -> list[str]:
    model, (drop_every, _, about) = request.teacher, AIMS[request.aim]
    batch = 32 if max_length <= 128 else 16 if max_length <= 256 else 8
    epochs = next((passes for most, passes in _EPOCHS_BY_DATASET_SIZE if row_count < most), 2)
    fit = {"batch_size": batch, "epochs": epochs}
    teacher, distill = _YamlSection(), _YamlSection()
    local = path_resolution.expand_local_path(model)
    teacher.add("model", str(local.resolve()) if local.exists() else model)
    found = _cached_config_and_tokenizer(model)
    width = (
        getattr(found[0], "hidden_size", _DEFAULT_HIDDEN_SIZE) if found else _DEFAULT_HIDDEN_SIZE
    )
    teachers, students = next(
        rates for most, rates in _LEARNING_RATES_BY_HIDDEN_SIZE if width <= most
    )
    if found and labels.names and _is_classifier_of(found[0], labels.names):
        teacher.lines.append("# It is a classifier of these labels already: nothing to fine-tune.")
    else:
        why = f"For {row_count:,} texts of up to {max_length} tokens, on one GPU."
        teacher.add("fine_tune", {"learning_rate": teachers, **fit}, why)
    distill.add("learning_rate", students, "What is cut bears larger steps than what is whole.")
    for key, value in fit.items():
        distill.add(key, value)
    distill.add("dropout", 0, "It costs a third of the time, and the teacher steadies enough.")
    one_stack = not found[0].is_encoder_decoder if found else model == DEFAULT_TEACHER
    if one_stack and labels.task is not REGRESSION:
        distill.add(
            "losses", _DEFAULT_LOSSES, "Matching the hidden states costs a third more time."
        )
    student = _YamlSection()
    if request.aim == "balanced":
        about = "Every second layer of the teacher"
    student.add("drop_every", drop_every, f"{about[0].upper()}{about[1:]}.")
    baseline = _YamlSection()
    if has_labels:
        baseline.add("baseline", True, "The same student, taught by labels alone, to compare with.")
    sections = [
        teacher.under_key("teacher"),
        student.under_key("student"),
        distill.under_key("distill"),
    ]
    return [*sections, *(["\n".join(baseline.lines)] if has_labels else [])]


def _has_classification_head(config: Any) -> bool:
    heads = config.architectures or []
    return any(name.endswith("ForSequenceClassification") for name in heads)


def _is_classifier_of(config: Any, label_names: Sequence[str]) -> bool:
    """Return whether a model is a classifier of these labels."""
    if not _has_classification_head(config):
        return False
    try:
        match_labels(label_names, model_io.get_label_names(config), labels_are_ordered=False)
    except ModelError:
        return False
    return True


def _evaluate_section(
    labels: schema_inference.InferredLabels, parts: Mapping[str, str | None]
) -> list[str]:
    evaluate = _YamlSection()
    evaluate.add("splits", ["validation", *(["test"] if parts.get("test") else [])])
    other = (
        schema_inference.find_out_of_scope_label(labels.names)
        if labels.task is SINGLE_LABEL
        else None
    )
    if other is not None:
        evaluate.add(
            "out_of_scope", other, "By its name it is for what fits none of the other labels."
        )
    return [evaluate.under_key("evaluate")]
