"""What a model takes: parameters, disk, memory, work, time."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdcli.evaluation.efficiency import latency
from kdcli.evaluation.output.evaluation_json import flatten_costs
from kdcli.evaluation.predict.inference import EvalModel
from kdcli.models import model_io


def measure_model_costs(
    models: Mapping[str, EvalModel],
    texts: Sequence[tuple[str, ...]],
    reference_models: Mapping[str, str | None],
) -> dict[str, dict[str, Any]]:
    """What each model takes, and `relative`: how often what its reference takes.

    Args:
        models: The models by name.
        texts: Real ones, to time.
        reference_models: For each model the one that it is compared with, if it is timed too.
    """
    speeds = latency.measure_inference_speed(
        {name: it.predict_class_ids for name, it in models.items()}, texts
    )
    found = {name: _measure_model(it, texts, speeds[name]) for name, it in models.items()}
    for name, other in reference_models.items():
        if name in found and other in found:
            own, its = flatten_costs(found[name]), flatten_costs(found[other])
            found[name]["relative"] = {key: own[key] / its[key] for key in own}
    return found


def _measure_model(
    model: EvalModel, texts: Sequence[tuple[str, ...]], speed: latency.InferenceSpeed
) -> dict[str, Any]:
    by_length = sorted(
        (model.tokenize_batch([text]) for text in texts), key=lambda b: b["input_ids"].numel()
    )
    return {
        "parameters": model_io.count_parameters(model.model),
        "megabytes": model_io.get_weights_megabytes(model.folder),
        "peak_megabytes": peak_memory_megabytes(
            model.model, model.tokenize_batch(texts[: latency.BATCH_SIZE])
        ),
        "flops_per_token": flops_per_token(model.model, by_length[len(by_length) // 2]),
        "latency_ms": {"p50": speed.p50_ms, "p95": speed.p95_ms},
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


def peak_memory_megabytes(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> float:
    """The most memory that tensors take at one time in a forward pass, weights included.

    In megabytes of 1,000,000 bytes. Python and the libraries come on top, and what a kernel uses
    inside itself.

    Args:
        model: A classifier.
        batch: Its inputs.
    """
    weights = {t.untyped_storage()._cdata: t for t in [*model.parameters(), *model.buffers()]}
    with torch.inference_mode(), _LiveTensorBytes(set(weights)) as live:
        model(**batch)
    return (sum(t.untyped_storage().nbytes() for t in weights.values()) + live.peak) / 1e6


class _LiveTensorBytes(TorchDispatchMode):
    """Sums up the tensors that operations make, for as long as something refers to them."""

    def __init__(self, known_storages: set[int]) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known_storages = known_storages

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
        if key not in self._known_storages:
            self._known_storages.add(key)
            self.current += size
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known_storages.discard(key)
        self.current -= size
