"""A large language model behind an API as a teacher.

The prompt asks for a label's number. If the server returns log-probabilities of the first token,
they give the labels' probabilities; otherwise the model is sampled several times, and each sample
votes.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.column_access import get_text_tuples
from kdcli.errors import DataError, LogprobsUnsupportedError
from kdcli.recipe.black_box_teachers import LLMTeacherConfig
from kdcli.sanitize import printable
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from kdcli.teachers.black_box_context import BlackBoxContext, PredictLogits, ProgressCallback
from kdcli.teachers.llm_client import ChatClient, ChatResponse
from kdcli.teachers.logit_conversion import convert_to_logits
from kdcli.teachers.permissions import resolve_api_key
from kdcli.teachers.response_cache import ResponseCache, default_cache_file

if TYPE_CHECKING:
    from datasets import Dataset

_MAX_TOP_LOGPROBS = 20  # the protocol's maximum
# Probability of the first token that labels must share for it to be used.
_MIN_LABEL_PROBABILITY_MASS = 0.5
# No label's number is longer, and Python refuses to parse 5,000 digits.
_NUMBER = re.compile(r"(?<!\d)\d{1,9}(?!\d)")


def check_teacher(config: LLMTeacherConfig, context: BlackBoxContext) -> None:
    """Check that the user allows the endpoint, and that the labels are no scores.

    Raises:
        RecipeError: The user doesn't allow the host, or its key.
        DataError: The labels are scores.
    """
    resolve_api_key(config, context.allow_endpoints)
    if context.dataset_splits.task is REGRESSION:
        raise DataError("teacher: an endpoint predicts labels, but the data has scores.")


def create_predictor(config: LLMTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """Find out whether the server returns log-probabilities, and return a predictor.

    Responses are cached: nothing is paid twice.

    Raises:
        UserError: The host or the key isn't allowed, the key, the URL or the model is wrong, or
            the budget is spent.
        ExternalError: The server doesn't respond.
    """
    key = resolve_api_key(config, context.allow_endpoints)
    prompt = _ClassificationPrompt(config, context)
    with ResponseCache(default_cache_file()) as kept:
        chat = ChatClient(config, key, _cached_cost(prompt, context, kept))
        # The same text whichever splits are predicted: its response is paid once.
        first = get_text_tuples(next(iter(context.dataset_splits.splits.values())).select([0]))[0]
        votes = _choose_votes(chat, prompt, first, kept)

    def predict(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
        texts = get_text_tuples(split)
        bodies = {
            text: [prompt.request_body(text, vote) for vote in votes]
            for text in dict.fromkeys(texts)
        }
        with ResponseCache(default_cache_file()) as kept:
            answers = _request_all(
                chat, [b for some in bodies.values() for b in some], kept, advance
            )
        found = {
            text: prompt.label_probabilities(
                [answers[_request_digest(config, body)] for body in some]
            )
            for text, some in bodies.items()
        }
        if silent := sum(not probabilities.any() for probabilities in found.values()):
            context.reporter.info(
                f"The teacher's responses match no label for {silent:,} of {len(found):,} texts."
            )
        values = np.stack([found[text] for text in texts])
        if context.dataset_splits.task is SINGLE_LABEL:
            values[~values.any(1)] = 1 / values.shape[1]
        return convert_to_logits(values, "probabilities", context.dataset_splits.task)

    return predict


class _ClassificationPrompt:
    """The prompt, and the parsing of responses."""

    def __init__(self, config: LLMTeacherConfig, context: BlackBoxContext) -> None:
        labels = context.dataset_splits.label_names
        self.config = config
        self.num_labels, self.is_multi_label = (
            len(labels),
            context.dataset_splits.task is MULTI_LABEL,
        )
        listed = "\n".join(
            f"{number}. {_to_single_line(config.descriptions.get(label, label))}"
            for number, label in enumerate(labels, 1)
        )
        how = (
            "Answer with the numbers of all labels that hold, with commas between, or with 0 where "
            "none does, and nothing else."
            if self.is_multi_label
            else "Answer with the number of the one label that fits best, and nothing else."
        )
        self.system_message = f"{config.instructions}\n\nLabels:\n{listed}\n\n{how}"
        self.max_tokens = (4 * min(self.num_labels, 50) if self.is_multi_label else 0) + 8

    def request_body(self, text_parts: tuple[str, ...], vote_seed: int | None) -> dict[str, Any]:
        """Build the request about a text: for log-probabilities, or for one vote."""
        shown = text_parts[0]
        if len(text_parts) > 1:
            shown = "\n\n".join(f"Text {i}: {part}" for i, part in enumerate(text_parts, 1))
        messages = [
            {"role": "system", "content": self.system_message},
            {"role": "user", "content": shown},
        ]
        found: dict[str, Any] = {"messages": messages, "max_tokens": self.max_tokens}
        if vote_seed is None:
            return found | {"temperature": 0, "logprobs": True, "top_logprobs": _MAX_TOP_LOGPROBS}
        return found | {"temperature": 1, "seed": vote_seed}

    def label_probabilities(self, responses: Sequence[ChatResponse]) -> np.ndarray:
        """Return probabilities, (labels,), from one response with log-probabilities or from votes.

        All are 0 if no response names a label.
        """
        if len(responses) == 1 and responses[0].certainty is not None:
            return self._probabilities_from_logprobs(responses[0])
        votes = np.zeros(self.num_labels)
        for answer in responses:
            votes[self._parse_label_ids(answer.text)] += 1
        if self.is_multi_label:
            return votes / len(responses)
        return votes / votes.sum() if votes.any() else votes

    def _probabilities_from_logprobs(self, response: ChatResponse) -> np.ndarray:
        found = np.zeros(self.num_labels)
        for token, logarithm in (response.alternatives or {}).items():
            stripped = token.strip()
            number = int(stripped) if _NUMBER.fullmatch(stripped) else 0
            if 1 <= number <= self.num_labels:
                found[number - 1] += np.exp(logarithm)
        named = self._parse_label_ids(response.text)
        # A number of several tokens shares its first token with others, which is then ambiguous.
        unambiguous = len(named) == 1 and found[named[0]] == found.max()
        if found.sum() >= _MIN_LABEL_PROBABILITY_MASS and (unambiguous or not named):
            return found / found.sum()
        found[:] = 0
        if named:
            sure = float(np.exp(response.certainty or 0.0))
            found[:] = (1 - sure) / max(self.num_labels - 1, 1)
            found[named[0]] = sure
        return found

    def _parse_label_ids(self, text: str) -> list[int]:
        """Return the ids of the labels that a response names; at most one for a single label."""
        numbers = dict.fromkeys(int(number) for number in _NUMBER.findall(text)[: self.num_labels])
        found = [number - 1 for number in numbers if 1 <= number <= self.num_labels]
        return found if self.is_multi_label else found[:1]


def _to_single_line(label: str) -> str:
    """Return a label without line ends, which would start another label's line in the prompt."""
    return printable(" ".join(label.split()))


def _cached_cost(
    prompt: _ClassificationPrompt, context: BlackBoxContext, cache: ResponseCache
) -> float:
    """Return the cost of all cached responses about the run's texts, from any run."""
    if prompt.config.price_per_million_tokens is None:
        return 0.0
    texts = {
        text for split in context.dataset_splits.splits.values() for text in get_text_tuples(split)
    }
    ways: list[int | None] = [None, *range(prompt.config.votes)]
    keys = [
        _request_digest(prompt.config, prompt.request_body(text, way))
        for text in texts
        for way in ways
    ]
    return sum(answer.cost for answer in _cached_responses(cache, keys).values())


def _cached_responses(cache: ResponseCache, keys: Iterable[str]) -> dict[str, ChatResponse]:
    """Return the cached responses; unusable ones are left out, and requested again."""
    found = {
        question: ChatResponse.from_json_or_none(text) for question, text in cache.get(keys).items()
    }
    return {question: answer for question, answer in found.items() if answer is not None}


def _choose_votes(
    client: ChatClient,
    prompt: _ClassificationPrompt,
    text_parts: tuple[str, ...],
    cache: ResponseCache,
) -> Sequence[int | None]:
    """Return the vote seeds for each text; a single None requests log-probabilities instead."""
    votes = range(client.config.votes)
    if prompt.is_multi_label:
        return votes
    body = prompt.request_body(text_parts, None)
    key = _request_digest(client.config, body)
    if (answer := _cached_responses(cache, [key]).get(key)) is None:
        try:
            answer = client.request_completion(body)
        except LogprobsUnsupportedError:
            return votes
        cache.put(key, answer.to_json())
    return votes if answer.certainty is None else [None]


def _request_all(
    client: ChatClient,
    request_bodies: Iterable[Mapping[str, Any]],
    cache: ResponseCache,
    advance: ProgressCallback,
) -> dict[str, ChatResponse]:
    """Return the response to each request by digest, from the cache or the server."""
    bodies = {_request_digest(client.config, body): body for body in request_bodies}
    found = _cached_responses(cache, bodies)
    missing = ((key, body) for key, body in bodies.items() if key not in found)
    running: dict[Future[ChatResponse], str] = {}
    with ThreadPoolExecutor(client.config.concurrency) as pool:
        try:
            while True:
                for key, body in islice(missing, client.config.concurrency - len(running)):
                    running[pool.submit(client.request_completion, body)] = key
                if not running:
                    return found
                done = wait(running, return_when=FIRST_COMPLETED).done
                came = {running.pop(future): future for future in done}
                for key, future in came.items():
                    if future.exception() is None:
                        found[key] = future.result()
                        cache.put(key, found[key].to_json())
                for future in done:
                    future.result()
                advance(len(found), len(bodies))
        except BaseException:
            client.stop()
            # Requests in flight are paid for.
            for future, key in running.items():
                if future.exception() is None:
                    cache.put(key, future.result().to_json())
            raise


def _request_digest(config: LLMTeacherConfig, request_body: Mapping[str, Any]) -> str:
    request = json.dumps([config.url, config.model, request_body], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()
