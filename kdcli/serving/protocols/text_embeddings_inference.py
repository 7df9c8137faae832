"""The route of text-embeddings-inference for classifiers: `POST /predict`."""

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from kdcli.runtime import Text
from kdcli.serving.protocols.base import RequestModel, json_response, label_scores, parse_body
from kdcli.serving.served_model import ServedModel

PATH = "/predict"
SUMMARY = "text-embeddings-inference"
EXAMPLES = {
    "one text": {"inputs": "my parcel is late"},
    "several texts": {"inputs": [["my parcel is late"], ["where is my refund?"]]},
    "a pair of texts": {"inputs": ["a man sleeps", "he is awake"], "raw_scores": False},
}
EXAMPLE_ANSWER: Any = [{"score": 0.93, "label": "track_order"}, {"score": 0.02, "label": "refund"}]

_Sequence = Annotated[list[str], Field(min_length=1, max_length=2)]


class TextEmbeddingsInferenceRequest(RequestModel):
    """A request; `truncate` is ignored: texts are truncated as in training."""

    model_config = ConfigDict(extra="ignore")

    inputs: str | _Sequence | list[_Sequence] = Field(
        description="a text, a pair [text, text], or a list of [text] and [text, text]."
    )
    raw_scores: bool = Field(False, description="true or false.")


async def answer(request: Request, model: ServedModel) -> Response:
    """Answer with labels and scores; with a list of these for a list of lists."""
    content = await parse_body(request, TextEmbeddingsInferenceRequest, model.limits)
    inputs: Any = content.inputs
    is_batch = isinstance(inputs, list) and not any(isinstance(each, str) for each in inputs)
    sequences = inputs if is_batch else [inputs]
    answers = await model.answer([_to_text(sequence) for sequence in sequences])
    ranked = model.rank_labels(answers, function="none" if content.raw_scores else None)
    rows = label_scores(ranked)
    return json_response(rows if is_batch else rows[0])


def _to_text(sequence: str | list[str]) -> Text:
    if isinstance(sequence, str):
        return sequence
    return sequence[0] if len(sequence) == 1 else (sequence[0], sequence[1])
