"""What a model takes: parameters, disk, memory, work, time."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdcli.evaluation import latency
from kdcli.evaluation.document import flat
from kdcli.evaluation.passes import Subject
from kdcli.models import source


def costs(
    subjects: Mapping[str, Subject],
    texts: Sequence[tuple[str, ...]],
    references: Mapping[str, str | None],
) -> dict[str, dict[str, Any]]:
    """What each model takes, and `relative`: how often what its reference takes.

    Args:
        subjects: The models by name.
        texts: Real ones, to time.
        references: For each model the one that it is compared with, if it is timed too.
    """
    speeds = latency.measure({name: it.classify for name, it in subjects.items()}, texts)
    found = {name: _cost(it, texts, speeds[name]) for name, it in subjects.items()}
    for name, other in references.items():
        if name in found and other in found:
            own, its = flat(found[name]), flat(found[other])
            found[name]["relative"] = {key: own[key] / its[key] for key in own}
    return found


def _cost(it: Subject, texts: Sequence[tuple[str, ...]], speed: latency.Speed) -> dict[str, Any]:
    by_length = sorted((it.inputs([text]) for text in texts), key=lambda b: b["input_ids"].numel())
    return {
        "parameters": source.count_parameters(it.model),
        "megabytes": source.megabytes(it.folder),
        "peak_megabytes": peak_megabytes(it.model, it.inputs(texts[: latency.BATCH])),
        "flops_per_token": flops_per_token(it.model, by_length[len(by_length) // 2]),
        "latency_ms": {"p50": speed.p50, "p95": speed.p95},
        "texts_per_second": speed.texts_per_second,
    }


def flops_per_token(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> float:
    """Floating-point operations of a forward pass for each token; to multiply and add makes two.

    Args:
        model: A classifier.
        batch: Its inputs, without padding.
    """
    # The counter hooks the gradients of parameters that modules are given as inputs (DeBERTa's
    # relative embeddings), which fails where no gradients are computed.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        # The fused attention kernels of the CPU aren't in the counter's table: it would miss them.
        with (
            torch.inference_mode(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            model(**batch)
    finally:
        for parameter in trained:
            parameter.requires_grad_()
    return float(counter.get_total_flops() / batch["input_ids"].numel())


def peak_megabytes(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> float:
    """The most memory that tensors take at one time in a forward pass, weights included.

    In megabytes of 1,000,000 bytes. Python and the libraries come on top, and what a kernel uses
    inside itself.

    Args:
        model: A classifier.
        batch: Its inputs.
    """
    weights = {t.untyped_storage()._cdata: t for t in [*model.parameters(), *model.buffers()]}
    with torch.inference_mode(), _Live(set(weights)) as live:
        model(**batch)
    return (sum(t.untyped_storage().nbytes() for t in weights.values()) + live.peak) / 1e6


class _Live(TorchDispatchMode):
    """Sums up the tensors that operations make, for as long as something refers to them."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        # A view has the storage of what it is a view of.
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
