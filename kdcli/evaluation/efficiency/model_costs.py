"""Parameters, weights, peak memory, FLOPs and speed of models."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdcli.evaluation.efficiency import latency
from kdcli.evaluation.output.evaluation_schema import flatten_costs
from kdcli.evaluation.predict.eval_models import EvalModel, RuntimeEvalModel
from kdcli.models import model_io


def measure_model_costs(
    models: Mapping[str, EvalModel | RuntimeEvalModel],
    texts: Sequence[tuple[str, ...]],
    reference_models: Mapping[str, str | None],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure the costs of each model, and their ratios to those of its reference model.

    Args:
        models: The models, by name.
        texts: Texts of the data to time.
        reference_models: The model that each one is compared with, or None.
        progress: Called as `progress(done, total)` while the models are timed.
    """
    speeds = latency.measure_inference_speed(
        {name: model.predict_class_ids for name, model in models.items()}, texts, progress
    )
    costs = {name: _measure_model(model, texts, speeds[name]) for name, model in models.items()}
    for name, other in reference_models.items():
        if name in costs and other in costs:
            values, reference = flatten_costs(costs[name]), flatten_costs(costs[other])
            costs[name]["relative"] = {
                key: values[key] / reference[key] for key in values if key in reference
            }
    return costs


def _measure_model(
    model: EvalModel | RuntimeEvalModel,
    texts: Sequence[tuple[str, ...]],
    speed: latency.InferenceSpeed,
) -> dict[str, Any]:
    """Measure a model; memory and FLOPs of a PyTorch model only."""
    if isinstance(model, RuntimeEvalModel):
        size = {}
        if (num_bytes := model.classifier.num_bytes) is not None:
            size["megabytes"] = num_bytes / 1e6
        if (parameters := model.classifier.num_parameters) is not None:
            size["parameters"] = parameters
    else:
        batches = (model.tokenize_batch([text]) for text in texts)
        by_length = sorted(batches, key=lambda batch: batch["input_ids"].numel())
        size = {
            "parameters": model_io.count_parameters(model.model),
            "megabytes": model_io.get_weights_megabytes(model.folder),
            "peak_megabytes": peak_memory_megabytes(
                model.model, model.tokenize_batch(texts[: latency.BATCH_SIZE])
            ),
            "flops_per_token": flops_per_token(model.model, by_length[len(by_length) // 2]),
        }
    return {
        **size,
        "latency_ms": {"p50": speed.p50_ms, "p95": speed.p95_ms},
        "texts_per_second": speed.texts_per_second,
    }


def flops_per_token(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> float:
    """Count floating-point operations per token of a forward pass; a multiply-add counts twice.

    Args:
        model: A classifier.
        batch: Inputs of the model, without padding.
    """
    # The counter hooks the gradients of parameters that are inputs of modules (DeBERTa's relative
    # embeddings), which fails in inference mode.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        # The counter does not know the fused attention kernels of the CPU.
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
    """Measure the peak memory of tensors in a forward pass, weights included.

    A megabyte has 1,000,000 bytes. Memory of Python, of libraries and within kernels is left out.

    Args:
        model: A classifier.
        batch: Inputs of the model.
    """
    weights = {t.untyped_storage()._cdata: t for t in [*model.parameters(), *model.buffers()]}
    with torch.inference_mode(), _LiveTensorBytes(set(weights)) as live:
        model(**batch)
    return (sum(t.untyped_storage().nbytes() for t in weights.values()) + live.peak) / 1e6


class _LiveTensorBytes(TorchDispatchMode):
    """Track the size of all tensors that operations create, while they are alive."""

    def __init__(self, known_storages: set[int]) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known_storages = known_storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        # A view shares the storage of its base.
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known_storages:
            self._known_storages.add(key)
            self.current += size
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known_storages.discard(key)
        self.current -= size
