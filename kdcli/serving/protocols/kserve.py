"""KServe's open inference protocol, version 2, as JSON: `POST /v2/models/NAME/infer`.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

import math
from typing import Any

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from kdcli import __version__
from kdcli.runtime import Text
from kdcli.serving.errors import RequestError
from kdcli.serving.inference_queue import Answers
from kdcli.serving.protocols.base import RequestModel, json_response, parse_body
from kdcli.serving.served_model import ServedModel

PATH = "/v2/models/{model_name}/infer"
SUMMARY = "KServe, version 2"
EXAMPLES = {
    "two texts": {
        "inputs": [
            {
                "name": "text",
                "shape": [2],
                "datatype": "BYTES",
                "data": ["my parcel is late", "where is my refund?"],
            }
        ]
    }
}
EXAMPLE_ANSWER: Any = {
    "model_name": "mine",
    "outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["track_order", "refund"]},
        {"name": "score", "datatype": "FP64", "shape": [2], "data": [0.93, 0.97]},
    ],
}
_BINARY_HEADER = "inference-header-content-length"
_TEXT, _PAIR = "text", "text_pair"


class InputTensor(RequestModel):
    """Texts as a tensor of strings."""

    model_config = ConfigDict(extra="ignore")

    name: str
    shape: list[int]
    datatype: str
    data: list[str] | list[list[str]]


class RequestedOutput(RequestModel):
    """An output to return."""

    model_config = ConfigDict(extra="ignore")

    name: str


class KServeRequest(RequestModel):
    """A request of the protocol."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = Field(None, description="a string.")
    inputs: list[InputTensor] = Field(
        description='a list of tensors, each {"name": "text" or "text_pair", "shape": [n], '
        '"datatype": "BYTES", "data": [strings]}.'
    )
    outputs: list[RequestedOutput] | None = Field(
        None, description='a list of {"name": an output}.'
    )


async def answer(request: Request, model: ServedModel) -> Response:
    """Answer with a tensor for each output; see `describe_model` for their names."""
    check_name(request, model)
    if _BINARY_HEADER in request.headers:
        raise RequestError(422, "Binary tensors are not supported: send and ask for JSON.")
    content = await parse_body(request, KServeRequest, model.limits)
    wanted = [each.name for each in content.outputs or ()]
    known = [each["name"] for each in _outputs(model)]
    for name in wanted:
        if name not in known:
            raise RequestError(422, f"outputs: there is no such output. There are {_join(known)}.")
    answers = await model.answer(_read_texts(content.inputs))
    values = _tensors(answers, model)
    document = {
        "model_name": model.name,
        **({} if content.id is None else {"id": content.id}),
        "outputs": [
            {
                "name": each["name"],
                "datatype": each["datatype"],
                "shape": [len(answers.predictions), *each["shape"][1:]],
                "data": values[each["name"]],
            }
            for each in _outputs(model)
            if not wanted or each["name"] in wanted
        ],
    }
    return json_response(document)


def check_name(request: Request, model: ServedModel) -> None:
    """Check that a path names the model.

    Raises:
        RequestError: It names another.
    """
    if request.path_params["model_name"] != model.name:
        raise RequestError(404, f"There is no such model here; there is {model.name}.")


def describe_server() -> dict[str, Any]:
    """Return the server's metadata."""
    return {"name": "kd", "version": __version__, "extensions": []}


def describe_model(model: ServedModel) -> dict[str, Any]:
    """Return the model's metadata: its inputs, outputs and the order of its labels."""
    return {
        "name": model.name,
        "platform": "kd",
        "inputs": [
            {"name": _TEXT, "datatype": "BYTES", "shape": [-1]},
            {"name": _PAIR, "datatype": "BYTES", "shape": [-1], "parameters": {"optional": True}},
        ],
        "outputs": _outputs(model),
        "parameters": {"labels": [*model.labels], "task": model.task},
    }


def _outputs(model: ServedModel) -> list[dict[str, Any]]:
    """List the outputs of a task; `probabilities` and `present` are in the order of the labels."""
    score = {"name": "score", "datatype": "FP64", "shape": [-1]}
    probabilities = {"name": "probabilities", "datatype": "FP64", "shape": [-1, len(model.labels)]}
    if model.task == "regression":
        return [score]
    if model.task == "multi_label_classification":
        present = {"name": "present", "datatype": "BOOL", "shape": [-1, len(model.labels)]}
        return [present, probabilities]
    label = {"name": "label", "datatype": "BYTES", "shape": [-1]}
    refused = {"name": "refused", "datatype": "BOOL", "shape": [-1]}
    return [label, score, refused, probabilities]


def _tensors(answers: Answers, model: ServedModel) -> dict[str, list[Any]]:
    """Return each output's data, row by row."""
    predictions = answers.predictions
    scores = model.classifier.compute_scores(answers.logits)
    return {
        "label": [prediction.label for prediction in predictions],
        "score": [prediction.score for prediction in predictions],
        "refused": [prediction.refused for prediction in predictions],
        "present": [
            label in prediction.labels for prediction in predictions for label in model.labels
        ],
        "probabilities": scores.ravel().tolist(),
    }


def _read_texts(inputs: list[InputTensor]) -> list[Text]:
    tensors = {tensor.name: _flatten(tensor) for tensor in inputs}
    if len(tensors) != len(inputs) or _TEXT not in tensors or {*tensors} - {_TEXT, _PAIR}:
        raise RequestError(422, f"inputs: expected a tensor {_TEXT}, and {_PAIR} for pairs.")
    if _PAIR not in tensors:
        return [*tensors[_TEXT]]
    if len(tensors[_TEXT]) != len(tensors[_PAIR]):
        raise RequestError(422, f"inputs: {_TEXT} and {_PAIR} have other lengths.")
    return [*zip(tensors[_TEXT], tensors[_PAIR], strict=True)]


def _flatten(tensor: InputTensor) -> list[str]:
    data = [text for row in tensor.data for text in ([row] if isinstance(row, str) else row)]
    is_column = len(tensor.shape) == 1 or (len(tensor.shape) == 2 and tensor.shape[1] == 1)
    if tensor.datatype != "BYTES" or not is_column or math.prod(tensor.shape) != len(data):
        raise RequestError(
            422, "inputs: expected datatype BYTES, and a shape [n] or [n, 1] for n strings."
        )
    return data


def _join(names: list[str]) -> str:
    return ", ".join(names)
