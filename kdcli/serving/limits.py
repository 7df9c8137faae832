"""Limits on what a server accepts."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdcli.runtime import Text
from kdcli.serving.errors import RequestError


@dataclass(frozen=True)
class ServingLimits:
    """Limits on requests; what exceeds them is refused with a status and a reason.

    Attributes:
        max_body_bytes: Bytes of a request's body.
        max_texts: Texts, or pairs of texts, in a request.
        max_text_chars: Characters of a text; of a pair, of both together.
        max_queued_texts: Texts that wait or run; beyond, requests get 429 with Retry-After.
        max_connections: Open connections.
        timeout: Seconds for a body to arrive, and seconds for its answer.
    """

    max_body_bytes: int = 1_048_576
    max_texts: int = 128
    max_text_chars: int = 32_768
    max_queued_texts: int = 1_024
    max_connections: int = 1_000
    timeout: float = 30.0

    def check_texts(self, texts: Sequence[Text]) -> None:
        """Check the number of texts and their lengths.

        Raises:
            RequestError: There are none, too many, or too long ones.
        """
        if not texts:
            raise RequestError(422, "The request has no texts.")
        if len(texts) > self.max_texts:
            raise RequestError(
                413,
                f"The request has {len(texts):,} texts; at most {self.max_texts:,} are allowed.",
            )
        for index, text in enumerate(texts):
            length = len(text) if isinstance(text, str) else sum(map(len, text))
            if length > self.max_text_chars:
                raise RequestError(
                    413,
                    f"Text {index} has {length:,} characters; at most {self.max_text_chars:,} are "
                    "allowed.",
                )
