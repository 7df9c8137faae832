"""The trials of a sweep in Optuna's SQLite database, and their claims by workers."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.errors import UsageError
from kdcli.pipeline.planning import describe_first_difference
from kdcli.recipe.sweep import SearchSpace
from kdcli.safe_files import raise_if_symlink
from kdcli.sweep.search_space import decode_optuna_params, suggest_values
from kdcli.sweep.trials import StaticCosts, Trial, non_dominated_trials

if TYPE_CHECKING:
    import optuna
    from filelock import FileLock

DATABASE_FILE = "sweep.db"
RESULT_FILE, PLOT_FILE, BEST_RECIPE_FILE = "sweep.json", "frontier.svg", "best.yaml"
_STUDY_NAME = "kd"
# Accuracy, parameters, operations per token.
_DIRECTIONS = ("maximize", "minimize", "minimize")
# In seconds; several workers write to the database, each a few times a minute.
_LOCK_TIMEOUT = 60.0
_TRIAL_STATES: Mapping[str, Any] = {"COMPLETE": "done", "PRUNED": "pruned", "RUNNING": "running"}


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that only this worker runs, as long as it holds the lock."""

    trial: "optuna.trial.Trial"
    lock: "FileLock"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The trial's hyperparameters, by recipe key."""
        return decode_optuna_params(self.trial.params)

    def record_student_size(self, size: StaticCosts) -> None:
        """Record the size of the trial's student."""
        self.trial.set_user_attr("shape", asdict(size))

    def record_epoch(self, epoch: int, accuracy: float) -> None:
        """Record the validation accuracy after an epoch."""
        known = self.trial.user_attrs.get("epochs", {})
        self.trial.set_user_attr("epochs", known | {str(epoch): accuracy})


class SweepStudy:
    """The trials of one sweep; several processes may open it.

    Args:
        folder: The sweep's folder.
        space: The search space.
        seed: Seed of the sampler.
    """

    def __init__(self, folder: Path, space: SearchSpace, seed: int) -> None:
        self.folder, self.space, self.seed = folder, space, seed
        self._study = _open_optuna_study(folder / DATABASE_FILE)

    def start_or_resume(
        self, fingerprint: Mapping[str, Any], first_trial: Mapping[str, Any]
    ) -> None:
        """Start the sweep, or check that the one in the folder is the same.

        Args:
            fingerprint: All that a trial's result depends on, apart from its hyperparameters.
            first_trial: Hyperparameters of the first trial; the sampler adds missing ones.

        Raises:
            UsageError: The folder has another sweep.
        """
        with self._exclusive_lock():
            stored = self._study.user_attrs.get("made_for")
            if stored is None:
                self._study.set_user_attr("made_for", dict(fingerprint))
                self._study.enqueue_trial(dict(first_trial))
            elif changed := describe_first_difference(stored, fingerprint):
                raise UsageError(
                    f"{self.folder} is a sweep of another recipe: {changed}.",
                    "Give another --output, or start over with --fresh.",
                )

    def trials(self) -> list[Trial]:
        """Get the started trials, by number."""
        return [_trial_from_optuna(trial) for trial in self._started_trials()]

    def claim_trial(self, max_trials: int) -> ClaimedTrial | None:
        """Claim a trial whose worker died, or a new one.

        Args:
            max_trials: Number of trials in all.

        Returns:
            The claim; None if no trial is left to start.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import Trial as Live

        with self._exclusive_lock():
            started = self._started_trials()
            for trial in started:
                if trial.state.name == "RUNNING" and (lock := self._try_lock_trial(trial.number)):
                    live = Live(self._study, trial._trial_id)
                    suggest_values(live, self.space)
                    return ClaimedTrial(live, lock)
            if len(started) >= max_trials:
                return None
            # After a restart, the same seed would sample the same values again.
            self._study.sampler = TPESampler(seed=(self.seed + len(started)) % 2**32)
            new = self._study.ask()
            suggest_values(new, self.space)
            lock = self._try_lock_trial(new.number)
            assert lock is not None
            return ClaimedTrial(new, lock)

    def has_running_trials(self) -> bool:
        """Return whether any trial is running."""
        return any(trial.state == "running" for trial in self.trials())

    def complete_trial(self, claim: ClaimedTrial, accuracy: float, size: StaticCosts) -> None:
        """Record the result of a finished trial."""
        values = [accuracy, size.parameters, size.flops_per_token]
        self._study.tell(claim.trial, values)

    def prune_or_fail_trial(self, claim: ClaimedTrial, failure_reason: str = "") -> None:
        """Record that a trial was pruned, or, with a reason, that it failed."""
        from optuna.trial import TrialState

        if failure_reason:
            claim.trial.set_user_attr("why", failure_reason)
        # Optuna ignores failed trials, but learns from pruned ones that they are bad.
        self._study.tell(claim.trial, state=TrialState.PRUNED)

    def delete_dominated_trials(self) -> list[Trial]:
        """Delete the run folders of ended trials that aren't on the Pareto front.

        Returns:
            The trials that are kept.
        """
        with self._exclusive_lock():
            trials = self.trials()
            kept = non_dominated_trials(trials)
            for trial in trials:
                if trial.state != "running" and trial not in kept:
                    shutil.rmtree(self.folder / trial.folder, ignore_errors=True)
                if trial.state != "running":
                    self._trial_lock_path(trial.number).unlink(missing_ok=True)
            return kept

    def _started_trials(self) -> "list[optuna.trial.FrozenTrial]":
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.name != "WAITING"]

    @contextmanager
    def _exclusive_lock(self) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self.folder / ".sweep.lock"):
            yield

    def _try_lock_trial(self, number: int) -> "FileLock | None":
        """Acquire the lock of a trial; None if another worker holds it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._trial_lock_path(number))
        with suppress(Timeout):
            # The system releases the locks of a process that dies.
            lock.acquire(blocking=False)
            return lock
        return None

    def _trial_lock_path(self, number: int) -> Path:
        return self.folder / f".trial-{number}.lock"


def delete_sweep_files(folder: Path) -> None:
    """Delete the files of an earlier sweep.

    Raises:
        UsageError: Another process runs the sweep.
    """
    from filelock import FileLock, Timeout

    raise_if_symlink(
        *(folder / name for name in (DATABASE_FILE, RESULT_FILE, PLOT_FILE, BEST_RECIPE_FILE))
    )
    for file in folder.glob(".trial-*.lock"):
        try:
            with FileLock(file, blocking=False):
                pass
        except Timeout as error:
            raise UsageError(
                f"Another kd is running in {folder}.", "Wait for it, or give another --output."
            ) from error
    for trial in folder.glob("trial-*"):
        shutil.rmtree(trial)
    for file in (
        *folder.glob(f"{DATABASE_FILE}*"),
        *(folder / n for n in (RESULT_FILE, PLOT_FILE, BEST_RECIPE_FILE)),
    ):
        file.unlink(missing_ok=True)


def require_optuna() -> None:
    """Check that Optuna is installed, and silence its log.

    Raises:
        UsageError: It isn't installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "kd sweep needs Optuna, which is not installed.",
            "Install it: pip install 'kdcli[sweep]'.",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def _open_optuna_study(file: Path) -> "optuna.Study":
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DatabaseError

    raise_if_symlink(file)
    url = URL.create("sqlite", database=str(file.resolve()))
    try:
        storage = optuna.storages.RDBStorage(
            url.render_as_string(), engine_kwargs={"connect_args": {"timeout": _LOCK_TIMEOUT}}
        )
        return optuna.create_study(
            storage=storage, study_name=_STUDY_NAME, directions=_DIRECTIONS, load_if_exists=True
        )
    except (DatabaseError, RuntimeError) as error:
        raise UsageError(
            f"{file} can't be read as a sweep: {str(error).partition(chr(10))[0]}.",
            "Give another --output, or start over with --fresh.",
        ) from error


def _trial_from_optuna(trial: "optuna.trial.FrozenTrial") -> Trial:
    attrs = trial.user_attrs
    state = _TRIAL_STATES.get(trial.state.name, "failed")
    return Trial(
        number=trial.number,
        state="failed" if "why" in attrs else state,
        settings=decode_optuna_params(trial.params),
        shape=StaticCosts(**attrs["shape"]) if "shape" in attrs else None,
        epochs={int(epoch): accuracy for epoch, accuracy in attrs.get("epochs", {}).items()},
        accuracy=trial.values[0] if trial.values else None,
        why=attrs.get("why", ""),
    )
