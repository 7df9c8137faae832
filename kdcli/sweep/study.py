"""A sweep's trials in Optuna's SQLite, and who of several workers is at which."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.errors import UsageError
from kdcli.planning import first_difference
from kdcli.recipe.sweep import Space
from kdcli.safe_files import refuse_links
from kdcli.sweep.space import draw, settings
from kdcli.sweep.trials import Shape, Trial, worth_keeping

if TYPE_CHECKING:
    import optuna
    from filelock import FileLock

DATABASE = "sweep.db"
RESULT, PICTURE, BEST = "sweep.json", "frontier.svg", "best.yaml"
_STUDY = "kd"
# Accuracy is to rise, parameters and operations a token to fall.
_DIRECTIONS = ("maximize", "minimize", "minimize")
# Several workers write to one file, a few times a minute each.
_PATIENCE = 60.0
_STATES: Mapping[str, Any] = {"COMPLETE": "done", "PRUNED": "pruned", "RUNNING": "running"}


@dataclass(frozen=True)
class Claim:
    """A trial that this worker is at, and nobody else, for as long as the lock is held."""

    trial: "optuna.trial.Trial"
    lock: "FileLock"

    @property
    def settings(self) -> dict[str, Any]:
        """The values it tries."""
        return settings(self.trial.params)

    def shape_is(self, shape: Shape) -> None:
        """Note how large its student is."""
        self.trial.set_user_attr("shape", asdict(shape))

    def epoch_is(self, epoch: int, accuracy: float) -> None:
        """Note the validation accuracy after an epoch."""
        known = self.trial.user_attrs.get("epochs", {})
        self.trial.set_user_attr("epochs", known | {str(epoch): accuracy})


class Study:
    """The trials of one sweep; several processes may have it open.

    Args:
        folder: The sweep's.
        space: What varies.
        seed: Of what is drawn.
    """

    def __init__(self, folder: Path, space: Space, seed: int) -> None:
        self.folder, self.space, self.seed = folder, space, seed
        self._study = _opened(folder / DATABASE)

    def begin(self, made_for: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        """Start the sweep, or see that it is the one that was started.

        Args:
            made_for: All that a trial's outcome depends on beside its settings.
            first: What the first trial is to try, as far as it is given.

        Raises:
            UsageError: The folder has a sweep of something else.
        """
        with self._alone():
            before = self._study.user_attrs.get("made_for")
            if before is None:
                self._study.set_user_attr("made_for", dict(made_for))
                self._study.enqueue_trial(dict(first))
            elif changed := first_difference(before, made_for):
                raise UsageError(
                    f"{self.folder} is a sweep of another recipe: {changed}.",
                    "Name another --output, or start over with --fresh.",
                )

    def trials(self) -> list[Trial]:
        """Those that were begun, by number."""
        found = self._study.get_trials(deepcopy=False)
        return [_read(trial) for trial in found if trial.state.name != "WAITING"]

    def claim(self, trials: int) -> Claim | None:
        """A trial to work at: one whose worker is gone, or a new one.

        Args:
            trials: How many there are to be in all.

        Returns:
            None where there is nothing to begin.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import Trial as Live

        with self._alone():
            begun = [t for t in self._study.get_trials(deepcopy=False) if t.state.name != "WAITING"]
            for trial in begun:
                if trial.state.name == "RUNNING" and (lock := self._lock(trial.number)):
                    live = Live(self._study, trial._trial_id)
                    draw(live, self.space)
                    return Claim(live, lock)
            if len(begun) >= trials:
                return None
            # A sampler that goes on after a stop mustn't draw again what it drew before.
            self._study.sampler = TPESampler(seed=(self.seed + len(begun)) % 2**32)
            new = self._study.ask()
            draw(new, self.space)
            lock = self._lock(new.number)
            assert lock is not None
            return Claim(new, lock)

    def busy(self) -> bool:
        """Whether other workers are at trials."""
        return any(trial.state == "running" for trial in self.trials())

    def done(self, claim: Claim, accuracy: float, shape: Shape) -> None:
        """A trial is through."""
        values = [accuracy, shape.parameters, shape.flops_per_token]
        self._study.tell(claim.trial, values)

    def given_up(self, claim: Claim, why: str = "") -> None:
        """A trial is pruned, or, where it says why, has failed."""
        from optuna.trial import TrialState

        if why:
            claim.trial.set_user_attr("why", why)
        # Failed trials teach Optuna nothing, and pruned ones that they are bad.
        self._study.tell(claim.trial, state=TrialState.PRUNED)

    def tidy(self) -> list[Trial]:
        """Delete the folders of finished trials whose student nobody would choose.

        Returns:
            The finished trials that are kept.
        """
        with self._alone():
            trials = self.trials()
            kept = worth_keeping(trials)
            for trial in trials:
                if trial.state != "running" and trial not in kept:
                    shutil.rmtree(self.folder / trial.folder, ignore_errors=True)
                if trial.state != "running":
                    self._lock_file(trial.number).unlink(missing_ok=True)
            return kept

    @contextmanager
    def _alone(self) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self.folder / ".sweep.lock"):
            yield

    def _lock(self, number: int) -> "FileLock | None":
        """The lock of a trial, held; None where another worker has it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._lock_file(number))
        with suppress(Timeout):
            # The system frees the lock of a process that is gone.
            lock.acquire(blocking=False)
            return lock
        return None

    def _lock_file(self, number: int) -> Path:
        return self.folder / f".trial-{number}.lock"


def start_over(folder: Path) -> None:
    """Delete what an earlier sweep left.

    Raises:
        UsageError: Somebody is at work there.
    """
    from filelock import FileLock, Timeout

    refuse_links(*(folder / name for name in (DATABASE, RESULT, PICTURE, BEST)))
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
    for file in (*folder.glob(f"{DATABASE}*"), *(folder / n for n in (RESULT, PICTURE, BEST))):
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


def _opened(file: Path) -> "optuna.Study":
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DatabaseError

    refuse_links(file)
    url = URL.create("sqlite", database=str(file.resolve()))
    try:
        storage = optuna.storages.RDBStorage(
            url.render_as_string(), engine_kwargs={"connect_args": {"timeout": _PATIENCE}}
        )
        return optuna.create_study(
            storage=storage, study_name=_STUDY, directions=_DIRECTIONS, load_if_exists=True
        )
    except (DatabaseError, RuntimeError) as error:
        raise UsageError(
            f"{file} can't be read as a sweep: {str(error).partition(chr(10))[0]}.",
            "Name another --output, or start over with --fresh.",
        ) from error


def _read(trial: "optuna.trial.FrozenTrial") -> Trial:
    noted = trial.user_attrs
    state = _STATES.get(trial.state.name, "failed")
    return Trial(
        number=trial.number,
        state="failed" if "why" in noted else state,
        settings=settings(trial.params),
        shape=Shape(**noted["shape"]) if "shape" in noted else None,
        epochs={int(epoch): accuracy for epoch, accuracy in noted.get("epochs", {}).items()},
        accuracy=trial.values[0] if trial.values else None,
        why=noted.get("why", ""),
    )
