"""A worker of a sweep: it takes trial after trial and runs each as far as the trained student."""

import multiprocessing
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import MendableError, StoppedError
from kdcli.models import layers, source
from kdcli.models.size import size
from kdcli.pipeline import execute
from kdcli.progress import Reporter, Silent
from kdcli.recipe.load import varied
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep import Space
from kdcli.run import Cadence, RunFolder
from kdcli.stages.inputs import Inputs, look
from kdcli.sweep.space import shown, titles
from kdcli.sweep.study import Claim, Study
from kdcli.sweep.trials import Shape, Trial, hopeless

_AWHILE = 0.5


@dataclass(frozen=True)
class Order:
    """What the workers of a sweep are to do.

    Attributes:
        recipe: What holds for all trials.
        space: What varies.
        folder: The sweep's.
        trials: How many there are to be in all.
        until: When no trial is begun any more, by `time.time`; None is never.
        allow_pickle: Whether weights may be a pickle.
        checkpoint_every: How often training writes a checkpoint.
    """

    recipe: Recipe
    space: Space
    folder: Path
    trials: int
    until: float | None = None
    allow_pickle: bool = False
    checkpoint_every: Cadence = Cadence()


class Worker:
    """Works at one trial at a time.

    Args:
        order: What is to be done.
        given: The data and the teacher's shape; looked at where they are left out.
        reporter: Told of each trial.
    """

    def __init__(self, order: Order, reporter: Reporter, given: Inputs | None = None) -> None:
        self.order, self.reporter = order, reporter
        self.study = Study(order.folder, order.space, order.recipe.seed)
        pickle = order.allow_pickle
        self.given = given or look(order.recipe, Silent(), allow_pickle=pickle, weights=False)
        self._known = {trial.number for trial in self._finished()}

    def work(self, *, wait: bool) -> None:
        """Take trials until there are none to begin.

        Args:
            wait: Whether to stay until those of other workers are through, so as to take over the
                trial of one that breaks off.

        Raises:
            KdError: The data or the machine failed, or the user stopped it; what is finished stays,
                and a trial that wasn't is gone on with by the next one who works here.
        """
        while True:
            _stop_with_parent()
            late = self.order.until is not None and time.time() >= self.order.until
            claim = self.study.claim(0 if late else self.order.trials)
            self._tell_of_others()
            if claim is not None:
                try:
                    self._try(claim)
                finally:
                    claim.lock.release()
                self.study.tidy()
            elif wait and self.study.busy():
                time.sleep(_AWHILE)
            else:
                return

    def _try(self, claim: Claim) -> None:
        name = f"trial {claim.trial.number}"
        start = time.monotonic()
        names = titles(list(claim.settings), self.order.recipe)
        values = (f"{names[key]} {shown(value)}" for key, value in claim.settings.items())
        self.reporter.start(name, ", ".join(values))
        outcome = self._run(claim)
        self._known.add(claim.trial.number)
        self.reporter.finish(name, outcome, time.monotonic() - start)

    def _run(self, claim: Claim) -> str:
        order, number = self.order, claim.trial.number
        try:
            recipe = varied(order.recipe, claim.settings, f"trial {number}")
            shape = self._shape(recipe)
        except MendableError as error:
            return self._failed(claim, error)
        claim.shape_is(shape)
        headline = self.given.corpus.task.headline
        listener = _Listener(self.reporter, self.study, claim, recipe.distill.epochs, headline)
        try:
            run = execute(
                recipe,
                order.folder / f"trial-{number}",
                listener,
                "distill",
                allow_pickle=order.allow_pickle,
                checkpoint_every=order.checkpoint_every,
            )
        except _PrunedError:
            self.study.given_up(claim)
            return "pruned"
        except MendableError as error:
            # Before it trains, its settings aren't to blame: the others would fail as well.
            if not listener.training:
                raise
            return self._failed(claim, error)
        self.study.done(claim, _reached(run, recipe, headline), shape)
        return "done"

    def _failed(self, claim: Claim, error: MendableError) -> str:
        self.study.given_up(claim, error.message)
        self.reporter.say(f"trial {claim.trial.number} has failed: {error.message}")
        return "failed"

    def _shape(self, recipe: Recipe) -> Shape:
        pickle = self.order.allow_pickle
        student = self.given.student_by(recipe, allow_pickle=pickle)
        counted = size(student)
        depth = getattr(layers.text_config(student.config), "num_hidden_layers", 0)
        return Shape(depth, source.count_parameters(student), counted.flops_per_token)

    def _finished(self) -> list[Trial]:
        return [trial for trial in self.study.trials() if trial.state != "running"]

    def _tell_of_others(self) -> None:
        for trial in self._finished():
            if trial.number not in self._known:
                self._known.add(trial.number)
                end: str = trial.state
                if trial.accuracy is not None:
                    end += f", {trial.accuracy:.4g} on validation"
                self.reporter.say(f"{trial.name}, by another worker: {end}.")


def _reached(run: RunFolder, recipe: Recipe, headline: str) -> float:
    epochs = [epoch[headline] for epoch in run.records["distill"].result["history"]]
    return max(epochs) if recipe.distill.keep == "best" else epochs[-1]


class _PrunedError(Exception):
    """This trial isn't worth its time."""


class _Listener(Silent):
    """Hears a trial's epochs, and breaks it off where it is hopeless; shows its steps alone."""

    def __init__(
        self, reporter: Reporter, study: Study, claim: Claim, epochs: int, headline: str
    ) -> None:
        self.reporter, self.study, self.claim, self.epochs = reporter, study, claim, epochs
        self.headline = headline
        self.training = False

    def start(self, stage: str, doing: str) -> None:
        self.training = stage == "distill"

    def advance(self, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        _stop_with_parent()
        if not self.training:
            return
        self.reporter.advance(done, total, figures)
        if figures and self.headline in figures:
            self._epoch(round(self.epochs * done / total), figures[self.headline])

    def _epoch(self, epoch: int, accuracy: float) -> None:
        self.claim.epoch_is(epoch, accuracy)
        trials = self.study.trials()
        own = next(trial for trial in trials if trial.number == self.claim.trial.number)
        if epoch < self.epochs and hopeless(own, epoch, accuracy, trials):
            raise _PrunedError


def _stop_with_parent() -> None:
    """A helper whose sweep was killed doesn't go on by itself."""
    parent: Any = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise StoppedError("The sweep that this worker belongs to is gone.")
