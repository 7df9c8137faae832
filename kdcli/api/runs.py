"""Run recipes from Python: the functions behind `kd distill`, `kd fine-tune-teacher`, `kd card`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import plugins
from kdcli.api.progress_reporting import ProgressCallback, choose_reporter, quiet_libraries
from kdcli.api.seed_repeats import repeat_with_seeds
from kdcli.pipeline import finished_run, planning
from kdcli.pipeline.options import RunOptions
from kdcli.pipeline.run_folder import SEEDS_FILE, CheckpointInterval, RunFolder
from kdcli.pipeline.runner import run_pipeline
from kdcli.progress import Reporter
from kdcli.recipe import renamed_keys
from kdcli.recipe.loading import config_from_flags, load_recipe
from kdcli.recipe.overrides import Override
from kdcli.recipe.recipe_lookup import is_recipe_not_model
from kdcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from kdcli.hub import PushResult

RecipeSource = str | Path | Mapping[str, Any] | Recipe
Overrides = Mapping[str, Any] | Sequence[Override]

_DATASET_KEYS = ("data.dataset", "data.unlabeled")


@dataclass(frozen=True)
class Run:
    """A run's folder and results.

    Attributes:
        folder: The run folder with the records of its stages.
    """

    folder: RunFolder

    @property
    def path(self) -> Path:
        """Path of the run folder."""
        return self.folder.path

    @property
    def student(self) -> Path:
        """Folder of the trained student, which plain transformers loads."""
        return self.path / "student"

    @property
    def teacher(self) -> Path:
        """Folder of the teacher."""
        return self.path / "teacher"

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """Result of each finished stage, by the stage's name."""
        return {name: record.result for name, record in self.folder.records.items()}

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The evaluation, as `kd distill --json` prints it; see docs/guides/figures.md."""
        return self.folder.records["evaluate"].result

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by model and split: `run.metrics["student"]["test"]["accuracy"]`."""
        return {model["name"]: model["splits"] for model in self.evaluation["models"]}

    @property
    def seeds(self) -> dict[str, Any] | None:
        """Mean and deviation over seeds; None if the run was not repeated."""
        path = self.path / SEEDS_FILE
        seeds: dict[str, Any] | None = None
        if path.is_file():
            seeds = json.loads(path.read_text(encoding="utf-8"))
        return seeds


def distill(
    recipe: RecipeSource,
    *,
    data: Any = None,
    teacher: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    overrides: Overrides = (),
    output: str | Path | None = None,
    seeds: int = 1,
    fresh: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    checkpoint_interval: CheckpointInterval = CheckpointInterval(),
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Train a student as a recipe says, evaluate it and write its card: `kd distill`.

    Stages that are done already for the same inputs are reused.

    Args:
        recipe: Path of a recipe, name of a shipped one, its keys as a dict, or a `Recipe`. Also a
            file or folder of texts and labels, or with `data` a finished classifier: a recipe is
            written for it first.
        data: The dataset, in place of the recipe's `data.dataset`: a Hub id, a path, a pandas or
            polars frame, a `datasets.Dataset` or a `DatasetDict`.
        teacher: The model to take as the teacher for a file or folder. Default: BERT-base.
        text: The text column of a file or folder, or the two of pairs. Default: guessed.
        label: The label column of a file or folder. Default: guessed.
        overrides: Values by dotted key, such as `{"distill.epochs": 3}`.
        output: The run's folder; `runs/NAME` by default.
        seeds: Number of seeds to train the student with.
        fresh: Run every stage anew.
        allow_pickle: Allow model weights that are stored as a pickle.
        allow_code: Allow running the Python function that the recipe names as its teacher.
        allow_endpoints: Hosts that texts may be sent to, each HOST or HOST=VARIABLE.
        checkpoint_interval: How often training writes a checkpoint.
        reporter: Receives progress; by default the logger `kdcli`.
        progress: Called as `progress(stage, done, total, metrics)`, if there is no reporter.

    Raises:
        KdError: The run failed; finished stages are kept.
    """
    options = RunOptions(
        fresh, allow_pickle, allow_code, tuple(allow_endpoints), checkpoint_interval
    )
    reporter = choose_reporter(reporter, progress)
    if isinstance(recipe, str | Path) and (data is None or not is_recipe_not_model(str(recipe))):
        from kdcli.api.own_data import find_or_write_recipe

        columns = () if text is None else (text,) if isinstance(text, str) else tuple(text)
        with quiet_libraries():
            recipe = find_or_write_recipe(
                str(recipe),
                reporter,
                data=to_reference(data),
                teacher=teacher,
                text=columns,
                label=label,
            )
        data = None
    loaded, folder = _load_recipe_and_folder(recipe, overrides, data, output, options)
    with quiet_libraries():
        run_pipeline(loaded, folder, reporter, None, options)
        if seeds > 1:
            repeat_with_seeds(loaded, folder, reporter, seeds, options)
    # Read from disk, a new run and a reused one give the same types.
    return Run(RunFolder.open(folder))


def fine_tune_teacher(
    recipe: RecipeSource,
    *,
    data: Any = None,
    overrides: Overrides = (),
    output: str | Path | None = None,
    until: str = "teacher",
    fresh: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
    allow_endpoints: Sequence[str] = (),
    checkpoint_interval: CheckpointInterval = CheckpointInterval(),
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Run a recipe up to its teacher: `kd fine-tune-teacher`. `distill` goes on from there.

    Args:
        recipe: See `distill`, as for all others.
        data: The dataset, in place of the recipe's.
        overrides: Values by dotted key.
        output: The run's folder.
        until: Name of the last stage, if that is another one.
        fresh: Run every stage anew.
        allow_pickle: Allow model weights that are stored as a pickle.
        allow_code: Allow running the recipe's function.
        allow_endpoints: Hosts that texts may be sent to.
        checkpoint_interval: How often training writes a checkpoint.
        reporter: Receives progress.
        progress: Called with progress.

    Raises:
        KdError: The run failed; finished stages are kept.
    """
    options = RunOptions(
        fresh, allow_pickle, allow_code, tuple(allow_endpoints), checkpoint_interval
    )
    loaded, folder = _load_recipe_and_folder(recipe, overrides, data, output, options)
    reporter = choose_reporter(reporter, progress)
    with quiet_libraries():
        run_pipeline(loaded, folder, reporter, until, options)
    return Run(RunFolder.open(folder))


def open_run(folder: str | Path) -> Run:
    """Open the folder of an earlier run.

    Raises:
        UsageError: The folder holds no run.
    """
    finished_run.load_run_recipe(Path(folder))
    return Run(RunFolder.open(Path(folder)))


def write_card(folder: str | Path, *, reporter: Reporter | None = None) -> Path:
    """Write the model card of a finished run, and its report: `kd card`.

    Returns:
        Path of the card.

    Raises:
        UsageError: The folder holds no run, or the run is unfinished or was changed.
    """
    with quiet_libraries():
        student = finished_run.rewrite_reports(Path(folder), choose_reporter(reporter))
    return student / "README.md"


def push_to_hub(
    folder: str | Path,
    repository: str,
    *,
    message: str = "Publish student and card",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    reporter: Reporter | None = None,
) -> "PushResult":
    """Publish a run's student and card on the Hub in one commit: `kd card --push`.

    The card is written again first.

    Args:
        folder: The run's folder.
        repository: OWNER/NAME on the Hub.
        message: The commit's message.
        private: Whether to create a private repository.
        revision: Branch to publish to.
        create_pr: Open a pull request instead of committing.
        reporter: Receives progress.

    Raises:
        KdError: The run is unfinished, or the Hub can't be reached or refuses.
    """
    from kdcli import hub

    write_card(folder, reporter=reporter)
    files = finished_run.files_to_publish(Path(folder))
    with quiet_libraries():
        return hub.push_to_hub(
            repository, files, message, private=private, revision=revision, create_pr=create_pr
        )


def _load_recipe_and_folder(
    recipe: RecipeSource,
    overrides: Overrides,
    data: Any,
    output: str | Path | None,
    options: RunOptions,
) -> tuple[Recipe, Path]:
    plugins.set_code_allowed(options.allow_code)  # before the recipe, which may name code
    loaded = resolve_recipe(recipe, overrides, data)
    return loaded, planning.run_folder_path(loaded, None if output is None else Path(output))


def resolve_recipe(recipe: RecipeSource, overrides: Overrides = (), data: Any = None) -> Recipe:
    """Load and validate a recipe from a path, a shipped name, a dict or a `Recipe`.

    Raises:
        RecipeError: The recipe or an override is wrong.
    """
    changes = to_overrides(overrides)
    if data is not None:
        changes += to_overrides({"data.dataset": data})
    if isinstance(recipe, str | Path):
        return load_recipe(str(recipe), changes)
    keys = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else dict(recipe)
    keys = renamed_keys.current_values(json.loads(json.dumps(keys, default=str)))
    return config_from_flags(Recipe, changes, keys)


def to_overrides(overrides: Overrides) -> list[Override]:
    """Convert values by dotted key to the form that `--set` takes; such a list stays as it is."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    values = {
        key: to_reference(value) if key in _DATASET_KEYS else value
        for key, value in overrides.items()
    }
    return [
        (f"{key}={json.dumps(value, default=str)}", f"overrides: {key}")
        for key, value in values.items()
    ]


def to_reference(data: Any) -> str | None:
    """Return a path or Hub id for a dataset; one in memory is written to the cache of `datasets`.

    Raises:
        DataError: The object is no dataset.
    """
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    from kdcli.data.in_memory import register_dataset

    return register_dataset(data)
