"""The interface of a stage: what it declares about itself, and what it is given to run.

Importing this module, or a module of `kdcli.stages`, loads neither torch nor transformers: planning
a finished run has to be quick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from kdcli.pipeline.preflight import ValidatedInputs
    from kdcli.pipeline.run_estimate import EstimateInputs


@dataclass(frozen=True)
class StageContext:
    """Inputs of a stage.

    Attributes:
        recipe: The validated recipe.
        artifacts: Paths of the artifacts of finished stages, by stage name.
        stage_results: Results of finished stages, by stage name.
        stage_seconds: Duration of each stage that this one builds on, by stage name.
        output: Path to write the artifact to; it does not exist yet.
        scratch: Folder that survives an interrupted attempt at the same work.
        logs: Folder for log files.
        notes_file: File with the user's additions to the card; it need not exist.
        reporter: Receives progress.
        options: The run's options.
        required_runs: Folders of the runs that `Stage.required_runs` asked for, in its order.
    """

    recipe: Recipe
    artifacts: Mapping[str, Path]
    stage_results: Mapping[str, Mapping[str, Any]]
    stage_seconds: Mapping[str, float]
    output: Path
    scratch: Path
    logs: Path
    notes_file: Path
    reporter: Reporter
    options: RunOptions = DEFAULT_OPTIONS
    required_runs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RequiredRun:
    """Another run whose artifacts a stage reads.

    Attributes:
        suffix: Appended to the name of this run's folder; the other run lies next to it.
        recipe: Recipe of the other run.
        until: Its last stage.
        message: Reported before it starts.
    """

    suffix: str
    recipe: Recipe
    until: str
    message: str


class Stage:
    """A step of the pipeline: it reads artifacts of earlier stages and writes one of its own.

    Subclass it in a module that imports heavy libraries inside `run` only. To add a stage to kd,
    name the class in an entry point of the group `kdcli.stages`.

    Attributes:
        name: Unique name, shown to the user and recorded in `run.json`.
        description: What the stage does, in a few words.
        artifact: Path of the artifact in the run folder. If it lies in another stage's artifact,
            such as `student/`, `needs` has to name that stage. Files below `student/` are
            published with the student.
        needs: Stages whose artifacts or results it reads.
        recipe_parts: Top-level recipe keys that its outcome depends on.
        ignored_keys: Dotted keys within these parts that its outcome does not depend on.
        version: Increase it when the same inputs give another outcome.
        all_processes: Run in all processes of a distributed run; otherwise in the first only.
        reusable_across_runs: Take over the artifact of a neighbouring run with the same key, and
            wait for a run that is working on it.
        only_reports: Writes a report on finished stages. It needs no check of data and models
            beforehand, and `kd card` runs it again.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    artifact: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    recipe_parts: ClassVar[tuple[str, ...]] = ()
    ignored_keys: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    all_processes: ClassVar[bool] = False
    reusable_across_runs: ClassVar[bool] = False
    only_reports: ClassVar[bool] = False

    def is_enabled(self, recipe: Recipe) -> bool:
        """Return whether a recipe has this stage."""
        return True

    def extra_cache_key_parts(self, recipe: Recipe) -> dict[str, Any]:
        """Return values that the outcome depends on beside `recipe_parts`; JSON types only."""
        return {}

    def required_runs(self, recipe: Recipe) -> Sequence[RequiredRun]:
        """Return the other runs that have to be finished before this stage."""
        return ()

    def validate(self, recipe: Recipe, inputs: "ValidatedInputs") -> None:
        """Check, before any stage runs, that this one can.

        Raises:
            KdError: It can't; the run folder is left as it was.
        """

    def preserve_user_edits(self, run_folder: Path) -> None:
        """Save what the user wrote into the artifact, before a run may replace it."""

    def estimate(self, workload: "EstimateInputs") -> dict[str, Any]:
        """Estimate `parameters`, `steps` and `seconds`, as far as they apply, for `--dry-run`."""
        return {}

    def run(self, context: StageContext) -> Mapping[str, Any]:
        """Write the artifact to `context.output`.

        Returns:
            A result of JSON types, recorded in `run.json` and passed on to later stages.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class StagePlan:
    """A stage of a run, and whether it runs.

    Attributes:
        stage: The stage.
        key: Hash of everything that its outcome depends on.
        spec: The recipe parts under the key.
        reason: Why it runs; None if its artifact is reused.
    """

    stage: Stage
    key: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
