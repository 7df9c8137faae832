"""Run one pipeline in several processes: `accelerate launch -m kdcli distill RECIPE`.

The process of rank 0 plans, writes files and prints; all processes train and run the teacher. Rank
and world size come from the launcher's environment variables, so that a single process does not
import torch for them.
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

# The other processes wait while rank 0 works alone, possibly for hours.
_TIMEOUT = timedelta(days=7)


def world_size() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Index of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def is_main_process() -> bool:
    """Return True in the process that writes files and prints (rank 0)."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes of this run within the block.

    Raises:
        ResourceError: Another process of the run has ended.
    """
    if world_size() == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    if torch.distributed.is_initialized():  # by an enclosing block
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
        # The launcher now sends SIGTERM, and this process still has to report the error.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ResourceError(
            f"Another of the {world_size()} processes of this run has ended.",
            "Run the same command again to go on from the last checkpoint.",
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def exit_process(exit_code: int | None) -> NoReturn:
    """End this process with an exit code.

    One of several processes skips the interpreter's shutdown: communication threads may outlive it
    and abort the process after all work is done.
    """
    if world_size() > 1 and not exit_code:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    sys.exit(exit_code)


def broadcast_from_rank0(compute: Callable[[], T]) -> T:
    """Compute a value in the process of rank 0 and return it in every process.

    Args:
        compute: Called on rank 0 only. Its result must be picklable.

    Raises:
        SystemExit: On the other ranks, with the exit code of the error that rank 0 raised.
    """
    if world_size() == 1:
        return compute()
    result_and_exit_code: list[Any] = [None, None]
    if is_main_process():
        try:
            result_and_exit_code[0] = compute()
        except Exception as error:
            _broadcast_objects([None, getattr(error, "exit_code", 3)])
            raise
    result, exit_code = _broadcast_objects(result_and_exit_code)
    if exit_code is not None:
        raise SystemExit(exit_code)
    value: T = result
    return value


def all_gather(value: T) -> list[T]:
    """Gather the values of all processes, ordered by rank, in every process."""
    if world_size() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Sum each value over all processes."""
    return list(values) if world_size() == 1 else _all_reduce(values, "SUM")


def all_reduce_max(values: Sequence[float]) -> list[float]:
    """Maximum of each value over all processes."""
    return list(values) if world_size() == 1 else _all_reduce(values, "MAX")


def barrier() -> None:
    """Wait until every process has reached this call."""
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
    reduced: list[float] = tensor.tolist()
    return reduced


def _is_communication_error(error: RuntimeError) -> bool:
    import torch

    # Gloo raises plain RuntimeErrors that name its source file.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
