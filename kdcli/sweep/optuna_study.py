"""A sweep's trials in Optuna's SQLite, and who of several workers is at which."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.errors import UsageError
from kdcli.pipeline.planning import describe_first_difference
from kdcli.recipe.sweep import SearchSpace
from kdcli.safe_files import refuse_symlinks
from kdcli.sweep.search_space import decode_optuna_params, suggest_values
from kdcli.sweep.trials import StudentSize, Trial, non_dominated_trials

if TYPE_CHECKING:
    import optuna
    from filelock import FileLock

DATABASE_FILE = "sweep.db"
RESULT_FILE, PLOT_FILE, BEST_RECIPE_FILE = "sweep.json", "frontier.svg", "best.yaml"
_STUDY_NAME = "kd"
# Accuracy is to rise, parameters and operations a token to fall.
_DIRECTIONS = ("maximize", "minimize", "minimize")
# Several workers write to one file, a few times a minute each.
_LOCK_TIMEOUT = 60.0
_TRIAL_STATES: Mapping[str, Any] = {"COMPLETE": "done", "PRUNED": "pruned", "RUNNING": "running"}


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this worker is at, and nobody else, for as long as the lock is held."""

    trial: "optuna.trial.Trial"
    lock: "FileLock"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The values it tries."""
        return decode_optuna_params(self.trial.params)

    def record_student_size(self, size: StudentSize) -> None:
        """Note how large its student is."""
        self.trial.set_user_attr("shape", asdict(size))

    def record_epoch(self, epoch: int, accuracy: float) -> None:
        """Note the validation accuracy after an epoch."""
        known = self.trial.user_attrs.get("epochs", {})
        self.trial.set_user_attr("epochs", known | {str(epoch): accuracy})


class SweepStudy:
    """The trials of one sweep; several processes may have it open.

    Args:
        folder: The sweep's.
        space: What varies.
        seed: Of what is drawn.
    """

    def __init__(self, folder: Path, space: SearchSpace, seed: int) -> None:
        self.folder, self.space, self.seed = folder, space, seed
        self._study = _open_optuna_study(folder / DATABASE_FILE)

    def start_or_resume(
        self, fingerprint: Mapping[str, Any], first_trial: Mapping[str, Any]
    ) -> None:
        """Start the sweep, or see that it is the one that was started.

        Args:
            fingerprint: All that a trial's outcome depends on beside its settings.
            first_trial: What the first trial is to try, as far as it is given.

        Raises:
            UsageError: The folder has a sweep of something else.
        """
        with self._exclusive_lock():
            before = self._study.user_attrs.get("made_for")
            if before is None:
                self._study.set_user_attr("made_for", dict(fingerprint))
                self._study.enqueue_trial(dict(first_trial))
            elif changed := describe_first_difference(before, fingerprint):
                raise UsageError(
                    f"{self.folder} is a sweep of another recipe: {changed}.",
                    "Name another --output, or start over with --fresh.",
                )

    def trials(self) -> list[Trial]:
        """Those that were begun, by number."""
        found = self._study.get_trials(deepcopy=False)
        return [_trial_from_optuna(trial) for trial in found if trial.state.name != "WAITING"]

    def claim_trial(self, max_trials: int) -> ClaimedTrial | None:
        """A trial to work at: one whose worker is gone, or a new one.

        Args:
            max_trials: How many there are to be in all.

        Returns:
            None where there is nothing to begin.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import Trial as Live

        with self._exclusive_lock():
            begun = [t for t in self._study.get_trials(deepcopy=False) if t.state.name != "WAITING"]
            for trial in begun:
                if trial.state.name == "RUNNING" and (lock := self._try_lock_trial(trial.number)):
                    live = Live(self._study, trial._trial_id)
                    suggest_values(live, self.space)
                    return ClaimedTrial(live, lock)
            if len(begun) >= max_trials:
                return None
            # A sampler that goes on after a stop mustn't draw again what it drew before.
            self._study.sampler = TPESampler(seed=(self.seed + len(begun)) % 2**32)
            new = self._study.ask()
            suggest_values(new, self.space)
            lock = self._try_lock_trial(new.number)
            assert lock is not None
            return ClaimedTrial(new, lock)

    def has_running_trials(self) -> bool:
        """Whether other workers are at trials."""
        return any(trial.state == "running" for trial in self.trials())

    def complete_trial(self, claim: ClaimedTrial, accuracy: float, size: StudentSize) -> None:
        """A trial is through."""
        values = [accuracy, size.parameters, size.flops_per_token]
        self._study.tell(claim.trial, values)

    def prune_or_fail_trial(self, claim: ClaimedTrial, failure_reason: str = "") -> None:
        """A trial is pruned, or, where it says why, has failed."""
        from optuna.trial import TrialState

        if failure_reason:
            claim.trial.set_user_attr("why", failure_reason)
        # Failed trials teach Optuna nothing, and pruned ones that they are bad.
        self._study.tell(claim.trial, state=TrialState.PRUNED)

    def delete_dominated_trials(self) -> list[Trial]:
        """Delete the folders of finished trials whose student nobody would choose.

        Returns:
            The finished trials that are kept.
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

    @contextmanager
    def _exclusive_lock(self) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self.folder / ".sweep.lock"):
            yield

    def _try_lock_trial(self, number: int) -> "FileLock | None":
        """The lock of a trial, held; None where another worker has it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._trial_lock_path(number))
        with suppress(Timeout):
            # The system frees the lock of a process that is gone.
            lock.acquire(blocking=False)
            return lock
        return None

    def _trial_lock_path(self, number: int) -> Path:
        return self.folder / f".trial-{number}.lock"


def delete_sweep_files(folder: Path) -> None:
    """Delete what an earlier sweep left.

    Raises:
        UsageError: Somebody is at work there.
    """
    from filelock import FileLock, Timeout

    refuse_symlinks(
        *(folder / name for name in (DATABASE_FILE, RESULT_FILE, PLOT_FILE, BEST_RECIPE_FILE))
    )
    for file in folder.glob(".trial-*.lock"):
        try:
            with FileLock(file, blocking=False):
                pass
        except Timeout as error:
            raise UsageError(
                f"Another kd is at work in {folder}.", "Wait for it, or name another --output."
            ) from error
    for trial in folder.glob("trial-*"):
        shutil.rmtree(trial)
    for file in (
        *folder.glob(f"{DATABASE_FILE}*"),
        *(folder / n for n in (RESULT_FILE, PLOT_FILE, BEST_RECIPE_FILE)),
    ):
        file.unlink(missing_ok=True)


def require_optuna() -> None:
    """See that Optuna is there, and keep its lines from coming between ours.

    Raises:
        UsageError: It isn't installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "kd sweep needs Optuna, which is not installed here.",
            "Install it: pip install 'kdcli[sweep]'.",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def _open_optuna_study(file: Path) -> "optuna.Study":
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DatabaseError

    refuse_symlinks(file)
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
            "Name another --output, or start over with --fresh.",
        ) from error


def _trial_from_optuna(trial: "optuna.trial.FrozenTrial") -> Trial:
    noted = trial.user_attrs
    state = _TRIAL_STATES.get(trial.state.name, "failed")
    return Trial(
        number=trial.number,
        state="failed" if "why" in noted else state,
        settings=decode_optuna_params(trial.params),
        shape=StudentSize(**noted["shape"]) if "shape" in noted else None,
        epochs={int(epoch): accuracy for epoch, accuracy in noted.get("epochs", {}).items()},
        accuracy=trial.values[0] if trial.values else None,
        why=noted.get("why", ""),
    )
