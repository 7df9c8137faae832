"""kd's own route, which says all that `Prediction` does: `POST /classify`."""

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field

from kdcli.runtime import Prediction, Text
from kdcli.serving.inference_queue import Answers
from kdcli.serving.protocols.base import RequestModel, json_response, parse_body
from kdcli.serving.served_model import ServedModel

PATH = "/classify"
SUMMARY = "kd: all that is known of a decision"
EXAMPLES = {
    "two texts": {"texts": ["my parcel is late", "what is the meaning of life?"], "top_k": 3},
    "a pair of texts": {"texts": [["a man sleeps", "he is awake"]]},
}
EXAMPLE_ANSWER: Any = {
    "model": "mine",
    "milliseconds": 1.4,
    "predictions": [
        {
            "label": "track_order",
            "score": 0.93,
            "labels": [],
            "refused": False,
            "deferred": False,
            "top": [{"label": "track_order", "score": 0.93}],
        }
    ],
}


class ClassifyRequest(RequestModel):
    """Texts or pairs of texts."""

    texts: list[str | Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        description="a list of texts, or of pairs [text, text]."
    )
    top_k: int = Field(1, ge=1, description="a number from 1.")
    compare: bool = Field(False, description="true to ask the teacher, too, or false.")


async def answer(request: Request, model: ServedModel, teacher: ServedModel | None) -> Response:
    """Answer with label, score, labels, refused and the best labels of each text."""
    content = await parse_body(request, ClassifyRequest, model.limits)
    texts: list[Text] = [
        each if isinstance(each, str) else (each[0], each[1]) for each in content.texts
    ]
    document = _write(model, await model.answer(texts), content.top_k)
    if content.compare and teacher is not None:
        document["teacher"] = _write(teacher, await teacher.answer(texts), content.top_k)
    return json_response(document)


def _write(model: ServedModel, answers: Answers, top_k: int) -> dict[str, Any]:
    return {
        "model": model.name,
        "milliseconds": round(1000 * answers.seconds, 3),
        "predictions": [_write_prediction(each, top_k) for each in answers.predictions],
    }


def _write_prediction(prediction: Prediction, top_k: int) -> dict[str, Any]:
    return {
        "label": prediction.label,
        "score": prediction.score,
        "labels": [*prediction.labels],
        "refused": prediction.refused,
        "deferred": prediction.deferred,
        "top": [{"label": label, "score": score} for label, score in prediction.top[:top_k]],
    }
