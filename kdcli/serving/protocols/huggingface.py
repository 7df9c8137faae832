"""The text-classification task of the Hugging Face inference API: `POST /`."""

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from kdcli.runtime import ScoreFunction, Text
from kdcli.serving.protocols.base import RequestModel, json_response, label_scores, parse_body
from kdcli.serving.served_model import ServedModel

PATH = "/"
SUMMARY = "Hugging Face inference API"
EXAMPLES = {
    "one text": {"inputs": "my parcel is late", "parameters": {"top_k": 2}},
    "several texts": {"inputs": ["my parcel is late", "where is my refund?"]},
    "a pair of texts": {"inputs": {"text": "a man sleeps", "text_pair": "he is awake"}},
}
EXAMPLE_ANSWER: Any = [
    [{"label": "track_order", "score": 0.93}, {"label": "refund", "score": 0.02}]
]


class TextPair(RequestModel):
    """A text, or a pair of texts."""

    text: str
    text_pair: str | None = None


class Parameters(RequestModel):
    """Parameters of the task."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    function_to_apply: ScoreFunction | None = None


class HuggingFaceRequest(RequestModel):
    """A request; keys of the inference API that don't concern a classifier are ignored."""

    model_config = ConfigDict(extra="ignore")

    inputs: str | TextPair | list[str | TextPair] = Field(
        description='a text, a pair {"text": …, "text_pair": …}, or a list of these.'
    )
    parameters: Parameters | None = Field(
        None,
        description='{"top_k": a number from 1, "function_to_apply": "softmax", "sigmoid" or '
        '"none"}, both optional.',
    )


async def answer(request: Request, model: ServedModel) -> Response:
    """Answer with a list of labels and scores for each text, nested also for a text alone."""
    content = await parse_body(request, HuggingFaceRequest, model.limits)
    inputs = content.inputs if isinstance(content.inputs, list) else [content.inputs]
    parameters = content.parameters or Parameters()
    answers = await model.answer([_to_text(each) for each in inputs])
    ranked = model.rank_labels(answers, parameters.top_k, parameters.function_to_apply)
    return json_response(label_scores(ranked))


def _to_text(text: str | TextPair) -> Text:
    if isinstance(text, str):
        return text
    return text.text if text.text_pair is None else (text.text, text.text_pair)
