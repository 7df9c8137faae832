"""Translate a classifier into one ONNX file."""

import logging
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdcli.errors import ModelError, as_resource_error, first_message_line
from kdcli.models.padding_invariance import get_forward_argument_names

if TYPE_CHECKING:
    from onnx import ModelProto
    from transformers import PreTrainedModel

# Opset 18 and IR 8 load in onnxruntime since 1.15; the exporter's own IR 10 needs 1.18.
OPSET_VERSION = 18
IR_VERSION = 8


def export_onnx_graph(model: "PreTrainedModel", batch: Mapping[str, Tensor]) -> "ModelProto":
    """Translate a classifier into an ONNX graph with dynamic batch size and length.

    The inputs are those of `batch` that the model takes, int64, (batch_size, sequence_length); the
    output is `logits`, float32, (batch_size, labels).

    Args:
        model: A classifier in evaluation mode, on the CPU.
        batch: At least two texts of different lengths, padded, as the model's collator gives them.

    Raises:
        ModelError: torch can't translate the model.
    """
    names = [name for name in batch if name in get_forward_argument_names(model)]
    axes = {0: torch.export.Dim("batch_size"), 1: torch.export.Dim("sequence_length")}
    try:
        with torch.no_grad(), silence_exporter():
            program = torch.onnx.export(
                _LogitsOnly(model, names),
                tuple(batch[name] for name in names),
                dynamo=True,
                opset_version=OPSET_VERSION,
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=(tuple(dict(axes) for _ in names),),
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the model's code does
        reason = textwrap.shorten(first_message_line(error.__cause__ or error), 120)
        raise as_resource_error(error) or ModelError(
            f"torch can't translate a {model.config.model_type} to ONNX: {reason}",
            "Deploy its PyTorch folder, or take a student of another architecture.",
        ) from error
    graph: ModelProto = program.model_proto
    remove_build_traces(graph)
    return graph


@contextmanager
def silence_exporter() -> Iterator[None]:
    """Silence warnings on what a user can't change, from torch and onnxruntime."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def remove_build_traces(model: "ModelProto") -> None:
    """Remove stack traces and paths of this machine, in place, and set the IR version."""
    model.ir_version = IR_VERSION
    model.doc_string = ""
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in part.value_info:
            del value.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


def set_metadata(model: "ModelProto", metadata: Mapping[str, Any]) -> None:
    """Replace the metadata of an ONNX model, in place."""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=str(value))


class _LogitsOnly(torch.nn.Module):
    """A classifier that takes its inputs by position and returns its logits alone."""

    def __init__(self, model: "PreTrainedModel", names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits, (batch_size, labels)."""
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits.float()
