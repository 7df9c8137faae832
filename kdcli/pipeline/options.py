"""Options of a run: how it works and what it may do, without effect on its outcome."""

from dataclasses import dataclass

from kdcli.pipeline.run_folder import CheckpointInterval


@dataclass(frozen=True)
class RunOptions:
    """Options that hold for all stages of a run.

    Attributes:
        fresh: Run every stage anew; reuse no artifact and no checkpoint.
        allow_pickle: Allow model weights that are stored as a pickle.
        allow_code: Allow importing and running the Python function that the recipe names.
        allow_endpoints: Hosts that texts may be sent to, each HOST, or HOST=VARIABLE where that
            environment variable may be sent as the API key.
        checkpoint_interval: How often training writes a checkpoint.
    """

    fresh: bool = False
    allow_pickle: bool = False
    allow_code: bool = False
    allow_endpoints: tuple[str, ...] = ()
    checkpoint_interval: CheckpointInterval = CheckpointInterval()


DEFAULT_OPTIONS = RunOptions()
