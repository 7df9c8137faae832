"""An accelerator that isn't there: tensors that claim to be elsewhere and compute on the CPU.

    with fake_accelerator(monkeypatch) as accelerator:
        predict_logits(...)  # an operation on tensors of both devices raises DeviceMismatchError
    accelerator.operations  # those that ran on the accelerator

`FakeTensorMode` refuses to mix devices too, but has no values, on which some passes depend.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# A type that every build of PyTorch has a device guard for, and no memory.
DEVICE = torch.device("meta")
_COPIES = ("aten::_to_copy", "aten::copy_", "aten::to")


class DeviceMismatchError(Exception):
    """An operation got tensors of both devices."""


class AcceleratorTensor(torch.Tensor):
    """A tensor of the CPU that claims to be on the accelerator."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"AcceleratorTensor({tuple(self.shape)})"

    def tolist(self):
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of the block")


class Accelerator(TorchDispatchMode):
    """Runs operations on the CPU, and wraps what belongs to the accelerator."""

    def __init__(self):
        super().__init__()
        self.operations, self.reads = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(function).startswith("aten._has_compatible_shallow_copy_type"):
            return type(args[0]) is type(args[1])
        values = tree_flatten((args, kwargs))[0]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        there = [isinstance(tensor, AcceleratorTensor) for tensor in tensors]
        is_copy = function._schema.name in _COPIES
        # Numbers of the CPU may be mixed with tensors of any device.
        if (
            any(there)
            and not is_copy
            and any(not on and t.dim() for on, t in zip(there, tensors, strict=True))
        ):
            raise DeviceMismatchError(f"{function} on {[t.device.type for t in tensors]}")
        devices = [value for value in values if isinstance(value, torch.device)]
        on_device = devices[0] == DEVICE if devices else any(there[:1] if is_copy else there)
        self.operations += on_device
        self.reads += any(there) and function._schema.name == "aten::_local_scalar_dense"
        args, kwargs = tree_map(_to_inner, (args, kwargs))
        outputs = function(*args, **kwargs)
        return tree_map(_wrap, outputs) if on_device else outputs


def _to_inner(value):
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.inner if isinstance(value, AcceleratorTensor) else value


def _wrap(value):
    return AcceleratorTensor(value) if isinstance(value, torch.Tensor) else value


@contextmanager
def fake_accelerator(monkeypatch):
    """Within the block kd runs its passes on the accelerator that isn't there."""
    from kdcli.models import device, torch_classifier

    with monkeypatch.context() as patch:
        for module in (device, torch_classifier):
            patch.setattr(module, "inference_device", lambda: DEVICE)
        # Inference mode refuses views of tensors that are wrapped.
        patch.setattr(torch, "inference_mode", torch.no_grad)
        with Accelerator() as accelerator:
            yield accelerator
