"""A teacher that is a language model behind an API.

It is asked for a label's number. Where the server tells the log-probabilities of the first token's
alternatives, they are the labels' probabilities; where it doesn't, the model votes several times.
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
from kdcli.recipe.black_box_teachers import EndpointTeacherConfig
from kdcli.sanitize import printable
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from kdcli.teachers.base import BlackBoxContext, PredictLogits, ProgressCallback, convert_to_logits
from kdcli.teachers.llm_client import ChatClient, ChatResponse
from kdcli.teachers.permissions import resolve_api_key
from kdcli.teachers.response_cache import ResponseCache, default_cache_file

if TYPE_CHECKING:
    from datasets import Dataset

_MAX_TOP_LOGPROBS = 20  # the most that the protocol gives
# Of the first token's probability, what has to be labels' for it to be taken.
_MIN_LABEL_PROBABILITY_MASS = 0.5
# No label has a longer one, and Python refuses to read one of 5,000 digits.
_NUMBER = re.compile(r"(?<!\d)\d{1,9}(?!\d)")


def check_teacher(config: EndpointTeacherConfig, context: BlackBoxContext) -> None:
    """See that the user allows it, and that the task is one that it can be asked about.

    Raises:
        RecipeError: The user didn't allow the host, or its key.
        DataError: The labels are scores, or a description is of no label.
    """
    resolve_api_key(config, context.allow_endpoints)
    if context.dataset_splits.task is REGRESSION:
        raise DataError("teacher: an endpoint gives labels, and the data has scores.")


def load_predictor(config: EndpointTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """See how the server answers: what the model says of each text as logits, (texts, labels).

    Nothing is paid twice.

    Raises:
        MendableError: The host or the key isn't allowed, the key, the address or the model is
            wrong, or the ceiling is reached.
        WorldError: The server doesn't answer.
    """
    key = resolve_api_key(config, context.allow_endpoints)
    prompt = _ClassificationPrompt(config, context)
    with ResponseCache(default_cache_file()) as kept:
        chat = ChatClient(config, key, _cached_cost(prompt, context, kept))
        # One text of the run, whichever splits are asked for: its answer is paid once.
        first = get_text_tuples(next(iter(context.dataset_splits.splits.values())).select([0]))[0]
        votes = _choose_votes(chat, prompt, first, kept)

    def logits(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
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
                f"The teacher named no label for {silent:,} of {len(found):,} texts."
            )
        values = np.stack([found[text] for text in texts])
        if context.dataset_splits.task is SINGLE_LABEL:
            values[~values.any(1)] = 1 / values.shape[1]
        return convert_to_logits(values, "probabilities", context.dataset_splits.task)

    return logits


class _ClassificationPrompt:
    """The question, and what an answer means."""

    def __init__(self, config: EndpointTeacherConfig, context: BlackBoxContext) -> None:
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
        """The request about a text: for log-probabilities, or for a vote of that number."""
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
        """The labels', (labels,), from one answer with log-probabilities or several votes.

        All 0 where the answers name no label.
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
        # A number of several tokens begins as another one does: its first token says too little.
        whole = len(named) == 1 and found[named[0]] == found.max()
        if found.sum() >= _MIN_LABEL_PROBABILITY_MASS and (whole or not named):
            return found / found.sum()
        found[:] = 0
        if named:
            sure = float(np.exp(response.certainty or 0.0))
            found[:] = (1 - sure) / max(self.num_labels - 1, 1)
            found[named[0]] = sure
        return found

    def _parse_label_ids(self, text: str) -> list[int]:
        """The labels that an answer names, by their ids; of one label a text, one at the most."""
        numbers = dict.fromkeys(int(number) for number in _NUMBER.findall(text)[: self.num_labels])
        found = [number - 1 for number in numbers if 1 <= number <= self.num_labels]
        return found if self.is_multi_label else found[:1]


def _to_single_line(label: str) -> str:
    """A label as the list can hold it: a line end in it would begin another label's line."""
    return printable(" ".join(label.split()))


def _cached_cost(
    prompt: _ClassificationPrompt, context: BlackBoxContext, cache: ResponseCache
) -> float:
    """What the run's answers have cost so far: those about any of its texts, whenever they came."""
    if prompt.config.price_per_million_tokens is None:
        return 0.0
    texts = {
        text for split in context.dataset_splits.splits.values() for text in get_text_tuples(split)
    }
    ways: list[int | None] = [None, *range(prompt.config.votes)]
    asked = [
        _request_digest(prompt.config, prompt.request_body(text, way))
        for text in texts
        for way in ways
    ]
    return sum(answer.cost for answer in _cached_responses(cache, asked).values())


def _cached_responses(cache: ResponseCache, keys: Iterable[str]) -> dict[str, ChatResponse]:
    """The answers that are kept; what can't be used counts as none, and is asked for again."""
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
    """The votes to ask each text for; None alone is one request for log-probabilities."""
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
    """The answer to each request, by its digest: those that are kept, and the others' now."""
    asked = {_request_digest(client.config, body): body for body in request_bodies}
    found = _cached_responses(cache, asked)
    missing = ((key, body) for key, body in asked.items() if key not in found)
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
                advance(len(found), len(asked))
        except BaseException:
            client.stop()
            # Answers that are under way are paid for.
            for future, key in running.items():
                if future.exception() is None:
                    cache.put(key, future.result().to_json())
            raise


def _request_digest(config: EndpointTeacherConfig, request_body: Mapping[str, Any]) -> str:
    whole = json.dumps([config.url, config.model, request_body], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
