"""Several processes at one run: `accelerate launch -m kdcli distill RECIPE`.

The first process plans, writes and speaks; all of them train, and ask the teacher. A process
knows its place by what the launcher put into the environment, so that a run of one process loads
none of torch for it.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from kdcli.errors import ResourceError

T = TypeVar("T")

# The others wait for what the first one does alone, and that may take hours.
_TIMEOUT = timedelta(days=7)


def world_size() -> int:
    """How many processes are at this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, counted from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Within the block the processes of this run can reach one another.

    Raises:
        MachineError: Another of them has ended.
    """
    if world_size() == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    if torch.distributed.is_initialized():  # by a block around this one
        yield
        return

    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    PartialState(cpu=not torch.accelerator.is_available(), timeout=_TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if not _is_communication_error(error):
            raise
        # The launcher ends the others by a signal, and this one still has to say why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ResourceError(
            f"Another of the {world_size()} processes of this run has ended.",
            "Run the same command again to go on from the last checkpoint.",
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def exit_process(exit_code: int | None) -> NoReturn:
    """End this process when all is done.

    One of several ends at once: threads of the connection to the others may outlive Python's own
    end, and abort the process when everything is written and said.
    """
    if world_size() > 1 and not exit_code:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    sys.exit(exit_code)


def broadcast_from_rank0(compute: Callable[[], T]) -> T:
    """What the first process makes, for every process; its error ends them all.

    Args:
        compute: Called in the first process alone. What it gives must be picklable.

    Raises:
        SystemExit: In the others, with the exit code of the first one's error, which tells of it.
    """
    if world_size() == 1:
        return compute()
    made: list[Any] = [None, None]
    if is_main_process():
        try:
            made[0] = compute()
        except Exception as error:
            _broadcast_objects([None, getattr(error, "exit_code", 3)])
            raise
    value, exit_code = _broadcast_objects(made)
    if exit_code is not None:
        raise SystemExit(exit_code)
    found: T = value
    return found


def all_gather(value: T) -> list[T]:
    """The value of every process, in their order, in every process."""
    if world_size() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Each value added up over all processes."""
    return list(values) if world_size() == 1 else _all_reduce(values, "SUM")


def all_reduce_max(values: Sequence[float]) -> list[float]:
    """The largest of each value over all processes."""
    return list(values) if world_size() == 1 else _all_reduce(values, "MAX")


def barrier() -> None:
    """Go on once every process has come here."""
    all_gather(None)


def _broadcast_objects(values: list[Any]) -> list[Any]:
    import torch

    torch.distributed.broadcast_object_list(values, src=0)
    return values


def _all_reduce(values: Sequence[float], operation: str) -> list[float]:
    import torch
    from accelerate import PartialState

    tensor = torch.tensor(values, dtype=torch.float64, device=PartialState().device)
    torch.distributed.all_reduce(tensor, op=getattr(torch.distributed.ReduceOp, operation))
    found: list[float] = tensor.tolist()
    return found


def _is_communication_error(error: RuntimeError) -> bool:
    import torch

    # Gloo's own errors are plain RuntimeErrors that name the file of its source.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
