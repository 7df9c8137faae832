"""A worker of a sweep: claims trials and runs each up to the trained student."""

import multiprocessing
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import RunInterruptedError, UserError
from kdcli.models import layer_stacks, model_io
from kdcli.models.model_complexity import count_parameters_and_flops
from kdcli.pipeline.options import DEFAULT_OPTIONS, RunOptions
from kdcli.pipeline.preflight import ValidatedInputs, validate_inputs
from kdcli.pipeline.run_folder import RunFolder
from kdcli.pipeline.runner import run_pipeline
from kdcli.progress import Reporter, SilentReporter
from kdcli.recipe.loading import recipe_for_trial
from kdcli.recipe.schema import Recipe
from kdcli.recipe.sweep import SearchSpace
from kdcli.sweep.optuna_storage import ClaimedTrial, SweepStudy
from kdcli.sweep.search_space import format_value, short_parameter_names
from kdcli.sweep.trials import StaticCosts, Trial, should_prune

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class SweepContext:
    """Context of a sweep that all of its workers share: configuration and folders.

    Attributes:
        recipe: The recipe that all trials start from.
        space: The search space.
        folder: The sweep's folder.
        max_trials: Number of trials in all.
        deadline: Time (`time.time`) after which no trial starts; None for no limit.
        options: Options of the trials' runs.
    """

    recipe: Recipe
    space: SearchSpace
    folder: Path
    max_trials: int
    deadline: float | None = None
    options: RunOptions = DEFAULT_OPTIONS


class SweepWorker:
    """Runs one trial at a time.

    Args:
        config: The sweep's configuration.
        reporter: Receives the progress of each trial.
        inputs: The validated data and teacher; validated here if left out.
    """

    def __init__(
        self, config: SweepContext, reporter: Reporter, inputs: ValidatedInputs | None = None
    ) -> None:
        self.config, self.reporter = config, reporter
        self.study = SweepStudy(config.folder, config.space, config.recipe.seed)
        self.inputs = inputs or validate_inputs(
            config.recipe, SilentReporter(), config.options, load_weights=False
        )
        self._reported_trials = {trial.number for trial in self._finished_trials()}

    def run_trials(self, *, wait_for_others: bool) -> None:
        """Run trials until none is left to start.

        Args:
            wait_for_others: Whether to wait until other workers finish, and to take over the trial
                of a worker that dies.

        Raises:
            KdError: The data or the machine failed, or the user stopped the sweep. Finished trials
                stay, and the next worker resumes the unfinished one.
        """
        finished = {trial.number for trial in self._finished_trials()}
        self.reporter.begin_run(
            {f"trial {n}": float(n not in finished) for n in range(self.config.max_trials)}
        )
        while True:
            _stop_if_parent_died()
            late = self.config.deadline is not None and time.time() >= self.config.deadline
            claim = self.study.claim_trial(0 if late else self.config.max_trials)
            self._report_other_workers()
            if claim is not None:
                try:
                    self._report_and_run_trial(claim)
                finally:
                    claim.lock.release()
                self.study.delete_dominated_trials()
            elif wait_for_others and self.study.has_running_trials():
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _report_and_run_trial(self, claim: ClaimedTrial) -> None:
        name = f"trial {claim.trial.number}"
        start = time.monotonic()
        names = short_parameter_names(list(claim.hyperparameters), self.config.recipe)
        values = (
            f"{names[key]} {format_value(value)}" for key, value in claim.hyperparameters.items()
        )
        self.reporter.start(name, ", ".join(values))
        outcome = self._run_trial(claim)
        self._reported_trials.add(claim.trial.number)
        self.reporter.finish(name, outcome, time.monotonic() - start)

    def _run_trial(self, claim: ClaimedTrial) -> str:
        config, number = self.config, claim.trial.number
        try:
            recipe = recipe_for_trial(config.recipe, claim.hyperparameters, f"trial {number}")
            size = self._student_size(recipe)
        except UserError as error:
            return self._record_failure(claim, error)
        claim.record_student_size(size)
        primary_metric = self.inputs.dataset_splits.task.primary_metric
        listener = _PruningReporter(
            self.reporter, self.study, claim, recipe.distill.epochs, primary_metric
        )
        try:
            run = run_pipeline(
                recipe,
                config.folder / f"trial-{number}",
                listener,
                "distill",
                config.options,
            )
        except _TrialPrunedError:
            self.study.prune_or_fail_trial(claim)
            return "pruned"
        except UserError as error:
            # An error before training is not due to the hyperparameters: all trials would fail.
            if not listener.training:
                raise
            return self._record_failure(claim, error)
        self.study.complete_trial(claim, _validation_score(run, recipe, primary_metric), size)
        return "done"

    def _record_failure(self, claim: ClaimedTrial, error: UserError) -> str:
        self.study.prune_or_fail_trial(claim, error.message)
        self.reporter.info(f"trial {claim.trial.number} failed: {error.message}")
        return "failed"

    def _student_size(self, recipe: Recipe) -> StaticCosts:
        pickle = self.config.options.allow_pickle
        student = self.inputs.student_for_recipe(recipe, allow_pickle=pickle)
        counted = count_parameters_and_flops(student)
        depth = getattr(layer_stacks.get_text_config(student.config), "num_hidden_layers", 0)
        return StaticCosts(depth, model_io.count_parameters(student), counted.flops_per_token)

    def _finished_trials(self) -> list[Trial]:
        return [trial for trial in self.study.trials() if trial.state != "running"]

    def _report_other_workers(self) -> None:
        for trial in self._finished_trials():
            if trial.number not in self._reported_trials:
                self._reported_trials.add(trial.number)
                end: str = trial.state
                if trial.accuracy is not None:
                    end += f", {trial.accuracy:.4g} on validation"
                self.reporter.info(f"{trial.name}, by another worker: {end}.")


def _validation_score(run: RunFolder, recipe: Recipe, primary_metric: str) -> float:
    epochs = [epoch[primary_metric] for epoch in run.records["distill"].result["history"]]
    return max(epochs) if recipe.distill.keep_checkpoint == "best" else epochs[-1]


class _TrialPrunedError(Exception):
    """The trial is pruned."""


class _PruningReporter(SilentReporter):
    """Records a trial's epochs, prunes it if it is worse than others, and shows its steps only."""

    def __init__(
        self,
        reporter: Reporter,
        study: SweepStudy,
        claim: ClaimedTrial,
        epochs: int,
        primary_metric: str,
    ) -> None:
        self.reporter, self.study, self.claim, self.epochs = reporter, study, claim, epochs
        self.primary_metric = primary_metric
        self.training = False

    def start(self, stage: str, description: str) -> None:
        self.training = stage == "distill"

    def phase(self, description: str, begin: float = 0.0, end: float = 1.0) -> None:
        if self.training:
            self.reporter.phase(description, begin, end)

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        _stop_if_parent_died()
        if not self.training:
            return
        self.reporter.advance(done, total, metrics)
        if metrics and self.primary_metric in metrics:
            self._record_epoch(round(self.epochs * done / total), metrics[self.primary_metric])

    def _record_epoch(self, epoch: int, accuracy: float) -> None:
        self.claim.record_epoch(epoch, accuracy)
        trials = self.study.trials()
        current = next(trial for trial in trials if trial.number == self.claim.trial.number)
        if epoch < self.epochs and should_prune(current, epoch, accuracy, trials):
            raise _TrialPrunedError


def _stop_if_parent_died() -> None:
    """Stop a worker process whose sweep was killed."""
    parent: Any = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise RunInterruptedError("The sweep of this worker has ended.")
