"""Evaluate models from Python: the function behind `kd evaluate`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.api.cascade import add_cascades
from kdcli.api.progress_reporting import ProgressCallback, choose_reporter, quiet_libraries
from kdcli.api.runs import Overrides, to_overrides, to_reference
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import ModelError, RemoteServiceError, UsageError
from kdcli.evaluation.calibration import inference_config
from kdcli.evaluation.cascade.deferral_rule import Metric
from kdcli.evaluation.compare import ModelComparison, compare_models
from kdcli.evaluation.output.evaluation_schema import BASELINE, STUDENT, TEACHER
from kdcli.models import model_io
from kdcli.onnx_export.precision_gates import find_exported_file
from kdcli.pipeline import run_datasets
from kdcli.pipeline.run_folder import RECIPE_FILE, RunFolder
from kdcli.progress import Reporter
from kdcli.recipe.loading import config_from_flags, load_recipe
from kdcli.recipe.overrides import Override
from kdcli.recipe.renamed_keys import current_key_path
from kdcli.recipe.schema import EvaluateCommandConfig
from kdcli.runtime import EXPORT_FILE_SUFFIXES, ONNX_FOLDER
from kdcli.tasks import TASKS


@dataclass(frozen=True)
class EvaluationReport:
    """Metrics of several models on the same texts.

    Attributes:
        comparison: The metrics with texts and predictions.
    """

    comparison: ModelComparison

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The evaluation, as `kd evaluate --json` prints it; see docs/guides/figures.md."""
        return self.comparison.evaluation

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by model and split."""
        return {model["name"]: model["splits"] for model in self.evaluation["models"]}


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    data: Any = None,
    config: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    splits: Sequence[str] | None = None,
    reference_model: str | Path | None = None,
    overrides: Overrides = (),
    cascade: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationReport:
    """Measure models on the same texts: `kd evaluate`.

    Args:
        models: Run folders (which stand for their teacher and student), model folders, Hub ids.
        data: Hub id, path, data frame, `datasets.Dataset` or `DatasetDict`; by default the data
            of the run that a model belongs to.
        config: Configuration of a Hub dataset.
        text: Column of the texts, or two columns of pairs.
        label: Column of the labels.
        splits: Splits to measure on.
        reference_model: Model that the others are compared with; by default the teacher.
        overrides: Further values by dotted key, such as `{"data.task": "multi_label"}`.
        cascade: A drop to promise, `{"accuracy": 0.005}` or `{"agreement": 0.02}`: chooses when
            the student defers to the teacher, and saves the rule with the student.
        confidence: Probability that the promise holds.
        allow_pickle: Allow model weights that are stored as a pickle.
        reporter: Receives progress; by default the logger `kdcli`.
        progress: Called as `progress(stage, done, total, metrics)`, if there is no reporter.

    Raises:
        KdError: A model or the data is missing or unusable.
    """
    keys = {
        "data.dataset": to_reference(data),
        "data.config": config,
        "data.text": text if text is None or isinstance(text, str) else list(text),
        "data.label": label,
        "evaluate.splits": None if splits is None else list(splits),
    }
    given = {key: value for key, value in keys.items() if value is not None}
    references = [models] if isinstance(models, str | Path) else models
    with quiet_libraries():
        comparison = evaluate_models(
            [str(model) for model in references],
            [*to_overrides(given), *to_overrides(overrides)],
            choose_reporter(reporter, progress),
            None if reference_model is None else str(reference_model),
            allow_pickle=allow_pickle,
        )
        if cascade is not None:
            metric: Metric = "agreement" if "agreement" in cascade else "accuracy"
            if [*cascade] != [metric]:
                raise UsageError(f"cascade takes accuracy or agreement, one of them: {cascade}.")
            add_cascades(comparison, metric, cascade[metric], confidence)
    return EvaluationReport(comparison)


def evaluate_models(
    models: Sequence[str],
    overrides: Sequence[Override],
    reporter: Reporter,
    reference_model: str | None = None,
    *,
    allow_pickle: bool = False,
) -> ModelComparison:
    """Measure models on the same texts.

    Args:
        models: Run folders, which stand for their teacher, student and what it is compared with,
            or single models.
        overrides: What the user said of data and evaluation, in a recipe's keys. The rest is as in
            the recipe of the run that a model belongs to: of other data, all but where it lies.
        reporter: Told of every batch.
        reference_model: The model that the others are compared with: one of them, or one more.
        allow_pickle: Whether the models' weights may be a pickle.

    Raises:
        KdError: A model or the data is missing or unusable.
    """
    given = {_flag_key(flag) for flag in overrides}
    spec, of_run = load_evaluation_config(models, overrides)
    folders, exported_from = _resolve_model_paths(models, allow_pickle=allow_pickle)
    if spec.data.task is None and (task := common_task(folders.values())):
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"task": task})})
    if reference_model is not None:
        reference_model = _find_or_add_model(reference_model, folders, allow_pickle=allow_pickle)
    reporter.start("evaluate", f"measure {', '.join(folders)}")
    # A validation split held out from train has to be the same as in the run.
    corpus = run_datasets.load_recipe_dataset(spec, reporter, for_training=of_run)
    if not of_run and not any(k.startswith(("evaluate.splits", "data.splits")) for k in given):
        corpus = _name_single_file_test(corpus, Path(spec.data.dataset))
    first = model_io.get_model_folder(next(iter(folders.values())))
    corpus = corpus.with_model_label_names(
        model_io.get_label_names(model_io.load_label_config(first))
    )
    chosen = spec.evaluate
    if not set(chosen.splits) & set(corpus.splits) and "splits" not in chosen.model_fields_set:
        chosen = chosen.model_copy(update={"splits": tuple(corpus.splits)})
    if "evaluate.out_of_scope" not in given and chosen.out_of_scope not in corpus.label_names:
        chosen = chosen.model_copy(update={"out_of_scope": None})
    carried = {
        name: found
        for name, path in folders.items()
        if (found := inference_config.load_calibration(model_io.get_model_folder(path)))
    }
    labels = {s.operating_point.label for s in carried.values() if s.operating_point}
    if chosen.out_of_scope is None and len(labels) == 1 and labels <= {*corpus.label_names}:
        chosen = chosen.model_copy(update={"out_of_scope": labels.pop()})
    if "evaluate.max_false_rejection_rate" in given:
        carried = {}
    return compare_models(
        folders,
        corpus,
        chosen,
        spec.data.max_length,
        reporter,
        truncate=spec.data.truncation,
        saved_calibrations=carried,
        reference_model=reference_model,
        exported_from=exported_from,
    )


def _name_single_file_test(corpus: DatasetSplits, dataset: Path) -> DatasetSplits:
    """Call the texts of a single file test: no model of this evaluation learnt from them."""
    if not dataset.is_file() or set(corpus.splits) != {"train"}:
        return corpus
    names = {"test": corpus.source_split_names.get("train", "train")}
    return replace(corpus, splits={"test": corpus.splits["train"]}, source_split_names=names)


def load_evaluation_config(
    models: Sequence[str], overrides: Sequence[Override]
) -> tuple[EvaluateCommandConfig, bool]:
    """Load the data and evaluation settings of the run that a model belongs to, and of the user.

    Args:
        models: Run folders, model folders or Hub ids.
        overrides: What the user said of data and evaluation, in a recipe's keys.

    Returns:
        The settings, and whether the texts are the run's own.

    Raises:
        UsageError: There is no run, and the user named no data.
    """
    from_run = "data.dataset" not in {_flag_key(flag) for flag in overrides}
    base: dict[str, Any] = {"data": {}, "evaluate": {}}
    # In the folder of a model, `.` has its run above.
    folders = [model_io.get_model_folder(Path(model).absolute()) for model in models]
    recipes = [r for f in folders for r in (f / RECIPE_FILE, f.parent / RECIPE_FILE)]
    found = next((recipe for recipe in recipes if recipe.is_file()), None)
    if found is not None:
        whole = load_recipe(str(found)).model_dump(mode="json")
        base = {key: whole[key] for key in ("seed", "data", "evaluate")}
    elif from_run:
        if not any(Path(model).exists() for model in models):
            raise UsageError(
                f"There is no folder {models[0]}, and no run to take texts from.",
                "Name a run or a model's folder; for a Hub model name texts too: --data DATASET.",
            )
        raise UsageError(
            f"{models[0]} belongs to no run: which texts is it to be measured on?",
            "Name them: --data DATASET.",
        )
    if not from_run:
        for key in ("dataset", "config", "revision", "splits", "unlabeled"):
            base["data"].pop(key, None)
        base["evaluate"].pop("splits", None)
        if base["data"].get("label", "") is None:  # the run's own texts have none
            del base["data"]["label"]
    return config_from_flags(EvaluateCommandConfig, overrides, base), from_run


def _flag_key(flag: Override) -> str:
    key = (flag if isinstance(flag, str) else flag[0]).partition("=")[0]
    return ".".join(map(str, current_key_path(tuple(key.split(".")))))


def common_task(folders: Iterable[Path]) -> str | None:
    """Return the task that all models' configurations state; None if they differ."""
    configs = (model_io.load_label_config(model_io.get_model_folder(folder)) for folder in folders)
    stated = {config.problem_type for config in configs}
    return stated.pop() if len(stated) == 1 and stated <= TASKS.keys() else None


def _resolve_model_paths(
    models: Sequence[str], *, allow_pickle: bool
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the models' folders or ONNX files by display name: short names if they are unique.

    A run stands for its models, and a folder also for the ONNX file that was exported into it.

    Returns:
        The paths, and the source of each exported model, by name.
    """
    paths: dict[str, Path] = {}
    exported_from: dict[str, str] = {}

    def add(name: str, path: Path) -> None:
        paths[name] = path
        if path.is_dir() and (exported := find_exported_file(path)) is not None:
            suffix, paths[name + suffix] = exported
            exported_from[name + suffix] = name

    for model in models:
        path = Path(model)
        if (path / RECIPE_FILE).is_file() and not (path / "config.json").is_file():
            run = RunFolder.open(path)
            names = [path.resolve().name, model] if len(models) > 1 else [""]
            prefix = next((n for n in names if f"{n}/student" not in paths), model)
            for part in (TEACHER, STUDENT, "control", BASELINE):
                # Only the student is always a model folder.
                if part == STUDENT or (path / part / "config.json").is_file():
                    _refuse_changed_model(run, part)
                    folder = model_io.locate_model(str(path / part))
                    add(f"{prefix}/{part}".lstrip("/"), folder)
        else:
            add(_short_name(model, paths), _locate(model, allow_pickle=allow_pickle))
    return paths, exported_from


def _locate(model: str, *, allow_pickle: bool) -> Path:
    """Locate a model folder, or an exported file in the folder `onnx` of one."""
    path = Path(model)
    if not (path.suffix in EXPORT_FILE_SUFFIXES and path.is_file()):
        try:
            return model_io.locate_model(model, allow_pickle=allow_pickle)
        except (ModelError, RemoteServiceError) as error:
            if path.exists() or path.name != model:
                raise
            message = f"There is no folder {model}, and as a Hub id: {error.message}"
            raise type(error)(message, error.hint) from error
    if path.parent.name != ONNX_FOLDER:
        raise ModelError(
            f"{path} doesn't lie in the folder {ONNX_FOLDER} of a model folder.",
            "Name a file that kd export wrote.",
        )
    model_io.locate_model(str(path.parent.parent))
    return path


def _refuse_changed_model(run: RunFolder, part: str) -> None:
    """Refuse a model of a run that was changed since: its metrics are not the run's."""
    stage = "distill" if part == "student" else part
    fault = run.artifact_problem(stage, part) if stage in run.records else None
    if fault:
        raise UsageError(
            f"The run {run.path} isn't whole: {fault}.",
            f"Make it again: kd distill {run.path / RECIPE_FILE} --output {run.path}.",
        )


def _find_or_add_model(model: str, folders: dict[str, Path], *, allow_pickle: bool) -> str:
    """Return the display name of a model; add it if it is not among the folders."""
    if model in folders:
        return model
    folder = _locate(model, allow_pickle=allow_pickle)
    known = next((n for n, path in folders.items() if path.resolve() == folder.resolve()), None)
    if known is None:
        known = _short_name(model, folders)
        folders[known] = folder
    return known


def _short_name(model: str, used_names: Mapping[str, Path]) -> str:
    path = Path(model)
    short = path.resolve().name if path.is_dir() else model
    return model if short in used_names else short
