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

from kdcli.errors import DataError, NoSuchParameterError
from kdcli.evaluation.passes import texts_of
from kdcli.outside import printable
from kdcli.recipe.black_box import EndpointSpec
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from kdcli.teachers.asked import Advance, Asking, Setting, as_logits
from kdcli.teachers.chat import Answer, Chat
from kdcli.teachers.consent import key_for
from kdcli.teachers.kept import Kept, default_file

if TYPE_CHECKING:
    from datasets import Dataset

_ALTERNATIVES = 20  # the most that the protocol gives
# Of the first token's probability, what has to be labels' for it to be taken.
_ENOUGH = 0.5
# No label has a longer one, and Python refuses to read one of 5,000 digits.
_NUMBER = re.compile(r"(?<!\d)\d{1,9}(?!\d)")


def check(spec: EndpointSpec, setting: Setting) -> None:
    """See that the user allows it, and that the task is one that it can be asked about.

    Raises:
        RecipeError: The user didn't allow the host, or its key.
        DataError: The labels are scores, or a description is of no label.
    """
    key_for(spec, setting.allow_endpoints)
    if setting.corpus.task is REGRESSION:
        raise DataError("teacher: an endpoint gives labels, and the data has scores.")


def opened(spec: EndpointSpec, setting: Setting) -> Asking:
    """See how the server answers: what the model says of each text as logits, (texts, labels).

    Nothing is paid twice.

    Raises:
        MendableError: The host or the key isn't allowed, the key, the address or the model is
            wrong, or the ceiling is reached.
        WorldError: The server doesn't answer.
    """
    key = key_for(spec, setting.allow_endpoints)
    prompt = _Prompt(spec, setting)
    with Kept(default_file()) as kept:
        chat = Chat(spec, key, _spent(prompt, setting, kept))
        # One text of the run, whichever splits are asked for: its answer is paid once.
        first = texts_of(next(iter(setting.corpus.splits.values())).select([0]))[0]
        votes = _votes(chat, prompt, first, kept)

    def logits(split: "Dataset", advance: Advance) -> np.ndarray:
        texts = texts_of(split)
        bodies = {
            text: [prompt.body(text, vote) for vote in votes] for text in dict.fromkeys(texts)
        }
        with Kept(default_file()) as kept:
            answers = _ask_all(chat, [b for some in bodies.values() for b in some], kept, advance)
        found = {
            text: prompt.probabilities([answers[_digest(spec, body)] for body in some])
            for text, some in bodies.items()
        }
        if silent := sum(not probabilities.any() for probabilities in found.values()):
            setting.reporter.say(
                f"The teacher named no label for {silent:,} of {len(found):,} texts."
            )
        values = np.stack([found[text] for text in texts])
        if setting.corpus.task is SINGLE_LABEL:
            values[~values.any(1)] = 1 / values.shape[1]
        return as_logits(values, "probabilities", setting.corpus.task)

    return logits


class _Prompt:
    """The question, and what an answer means."""

    def __init__(self, spec: EndpointSpec, setting: Setting) -> None:
        labels = setting.corpus.labels
        self.spec = spec
        self.count, self.several = len(labels), setting.corpus.task is MULTI_LABEL
        listed = "\n".join(
            f"{number}. {_on_one_line(spec.descriptions.get(label, label))}"
            for number, label in enumerate(labels, 1)
        )
        how = (
            "Answer with the numbers of all labels that hold, with commas between, or with 0 where "
            "none does, and nothing else."
            if self.several
            else "Answer with the number of the one label that fits best, and nothing else."
        )
        self.system = f"{spec.instructions}\n\nLabels:\n{listed}\n\n{how}"
        self.longest = (4 * min(self.count, 50) if self.several else 0) + 8

    def body(self, text: tuple[str, ...], vote: int | None) -> dict[str, Any]:
        """The request about a text: for log-probabilities, or for a vote of that number."""
        shown = text[0]
        if len(text) > 1:
            shown = "\n\n".join(f"Text {i}: {part}" for i, part in enumerate(text, 1))
        messages = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": shown},
        ]
        found: dict[str, Any] = {"messages": messages, "max_tokens": self.longest}
        if vote is None:
            return found | {"temperature": 0, "logprobs": True, "top_logprobs": _ALTERNATIVES}
        return found | {"temperature": 1, "seed": vote}

    def probabilities(self, answers: Sequence[Answer]) -> np.ndarray:
        """The labels', (labels,), from one answer with log-probabilities or several votes.

        All 0 where the answers name no label.
        """
        if len(answers) == 1 and answers[0].certainty is not None:
            return self._weighed(answers[0])
        votes = np.zeros(self.count)
        for answer in answers:
            votes[self._named(answer.text)] += 1
        if self.several:
            return votes / len(answers)
        return votes / votes.sum() if votes.any() else votes

    def _weighed(self, answer: Answer) -> np.ndarray:
        found = np.zeros(self.count)
        for token, logarithm in (answer.alternatives or {}).items():
            stripped = token.strip()
            number = int(stripped) if _NUMBER.fullmatch(stripped) else 0
            if 1 <= number <= self.count:
                found[number - 1] += np.exp(logarithm)
        named = self._named(answer.text)
        # A number of several tokens begins as another one does: its first token says too little.
        whole = len(named) == 1 and found[named[0]] == found.max()
        if found.sum() >= _ENOUGH and (whole or not named):
            return found / found.sum()
        found[:] = 0
        if named:
            sure = float(np.exp(answer.certainty or 0.0))
            found[:] = (1 - sure) / max(self.count - 1, 1)
            found[named[0]] = sure
        return found

    def _named(self, text: str) -> list[int]:
        """The labels that an answer names, by their ids; of one label a text, one at the most."""
        numbers = dict.fromkeys(int(number) for number in _NUMBER.findall(text)[: self.count])
        found = [number - 1 for number in numbers if 1 <= number <= self.count]
        return found if self.several else found[:1]


def _on_one_line(name: str) -> str:
    """A label as the list can hold it: a line end in it would begin another label's line."""
    return printable(" ".join(name.split()))


def _spent(prompt: _Prompt, setting: Setting, kept: Kept) -> float:
    """What the run's answers have cost so far: those about any of its texts, whenever they came."""
    if prompt.spec.price is None:
        return 0.0
    texts = {text for split in setting.corpus.splits.values() for text in texts_of(split)}
    ways: list[int | None] = [None, *range(prompt.spec.votes)]
    asked = [_digest(prompt.spec, prompt.body(text, way)) for text in texts for way in ways]
    return sum(answer.cost for answer in _known(kept, asked).values())


def _known(kept: Kept, questions: Iterable[str]) -> dict[str, Answer]:
    """The answers that are kept; what can't be used counts as none, and is asked for again."""
    found = {question: Answer.read(text) for question, text in kept.get(questions).items()}
    return {question: answer for question, answer in found.items() if answer is not None}


def _votes(chat: Chat, prompt: _Prompt, text: tuple[str, ...], kept: Kept) -> Sequence[int | None]:
    """The votes to ask each text for; None alone is one request for log-probabilities."""
    votes = range(chat.spec.votes)
    if prompt.several:
        return votes
    body = prompt.body(text, None)
    key = _digest(chat.spec, body)
    if (answer := _known(kept, [key]).get(key)) is None:
        try:
            answer = chat.ask(body)
        except NoSuchParameterError:
            return votes
        kept.put(key, answer.written())
    return votes if answer.certainty is None else [None]


def _ask_all(
    chat: Chat,
    bodies: Iterable[Mapping[str, Any]],
    kept: Kept,
    advance: Advance,
) -> dict[str, Answer]:
    """The answer to each request, by its digest: those that are kept, and the others' now."""
    asked = {_digest(chat.spec, body): body for body in bodies}
    found = _known(kept, asked)
    missing = ((key, body) for key, body in asked.items() if key not in found)
    running: dict[Future[Answer], str] = {}
    with ThreadPoolExecutor(chat.spec.concurrency) as pool:
        try:
            while True:
                for key, body in islice(missing, chat.spec.concurrency - len(running)):
                    running[pool.submit(chat.ask, body)] = key
                if not running:
                    return found
                done = wait(running, return_when=FIRST_COMPLETED).done
                came = {running.pop(future): future for future in done}
                for key, future in came.items():
                    if future.exception() is None:
                        found[key] = future.result()
                        kept.put(key, found[key].written())
                for future in done:
                    future.result()
                advance(len(found), len(asked))
        except BaseException:
            chat.stop()
            # Answers that are under way are paid for.
            for future, key in running.items():
                if future.exception() is None:
                    kept.put(key, future.result().written())
            raise


def _digest(spec: EndpointSpec, body: Mapping[str, Any]) -> str:
    whole = json.dumps([spec.url, spec.model, body], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
