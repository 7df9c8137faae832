"""The device that models run on: the accelerator, if there is one."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from kdcli import distributed
from kdcli.errors import RecipeError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["float32", "bfloat16", "float16", "auto"]

_FORCE_CPU = "ACCELERATE_USE_CPU"
_KINDS = ("cuda", "mps", "xpu")


def inference_device() -> torch.device:
    """Return the device of this process: that of `use_device`, its own accelerator, or the CPU.

    It is the device that transformers' Trainer uses too.
    """
    from accelerate import PartialState

    return PartialState().device


def use_device(name: str | None) -> None:
    """Choose the device of this process, for training and for every pass, until it ends.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`; None leaves the choice as it is.

    Raises:
        UsageError: There is no such device.
    """
    if name is None:
        return
    from accelerate.state import AcceleratorState

    if distributed.world_size() > 1:
        raise UsageError(
            f"--device {name}: the launcher chooses the devices.",
            "Hide those that it must not use, such as by CUDA_VISIBLE_DEVICES=1,2.",
        )
    kind, _, index = name.partition(":")
    available = ["cpu", *filter(_is_available, _KINDS)]
    count = _device_count(kind) if kind in available else 0
    if kind not in available or (index and not (index.isdecimal() and int(index) < count)):
        raise UsageError(
            f"--device {name}: this machine has no such device.",
            f"Those that it has: {', '.join(available)}.",
        )
    if kind == "cpu":
        os.environ[_FORCE_CPU] = "true"
    else:
        os.environ.pop(_FORCE_CPU, None)
        if index:
            getattr(torch, kind).set_device(int(index))
    # The state of an earlier run in this process may be that of another device.
    AcceleratorState._reset_state(reset_partial_state=True)


def resolve_precision(name: Precision) -> Precision:
    """Return the number format of training on this process's device: `auto` is decided.

    Raises:
        RecipeError: The device has no mixed precision of this kind.
    """
    device = inference_device()
    if name == "auto":
        return "bfloat16" if _computes_bfloat16(device) else "float32"
    if name == "float16" and device.type == "cpu":
        raise RecipeError(
            "precision: float16 needs an accelerator, and this process trains on the CPU.",
            "Take precision: auto, which is float32 there.",
        )
    return name


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "xpu"


@contextmanager
def on_inference_device(model: "PreTrainedModel") -> Iterator[torch.device]:
    """Within the block the model is on the inference device; afterwards back where it was.

    A model that already is on an accelerator stays there.
    """
    home, device = model.device, inference_device()
    if home.type != "cpu" or device.type == "cpu":
        yield home
        return
    move: Any = model.to
    move(device)
    try:
        yield device
    finally:
        move(home)


def free_memory(device: torch.device) -> None:
    """Return the memory that PyTorch keeps of earlier batches to the device."""
    gc.collect()
    empty_cache: Any = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()


def _is_available(kind: str) -> bool:
    return bool(
        torch.backends.mps.is_available() if kind == "mps" else getattr(torch, kind).is_available()
    )


def _device_count(kind: str) -> int:
    return 1 if kind in ("cpu", "mps") else int(getattr(torch, kind).device_count())
