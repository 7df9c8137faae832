"""Threads that run a classifier behind a bounded queue, off the event loop."""

import asyncio
import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdcli.errors import UserError
from kdcli.runtime import Prediction, Text, TextClassifier
from kdcli.serving.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

_LOGGER = logging.getLogger("kdcli.serving")
# Texts of waiting requests that share a batch.
_MAX_BATCH_TEXTS = 32
_MAX_RETRY_SECONDS = 60


@dataclass(frozen=True)
class Answers:
    """The answers for the texts of a request.

    Attributes:
        logits: The raw outputs, (texts, labels).
        predictions: The decisions, each with all labels in `top`.
        seconds: Time that the texts took in the model, with those of other requests in the batch.
    """

    logits: "np.ndarray"
    predictions: list[Prediction]
    seconds: float


@dataclass(eq=False)
class _Job:
    texts: Sequence[Text]
    future: "asyncio.Future[Answers]"
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


class InferenceQueue:
    """Answer requests in the order in which they come, in threads.

    Requests that wait share a batch if the classifier gains by batches. Its answers do not depend
    on the batch; where they would (int8), it reads each text alone, and so does each request.

    Args:
        classifier: The classifier.
        max_texts: Texts that may wait or run.
        num_threads: Threads that predict at once; 1 for a classifier that is not thread-safe.
    """

    def __init__(self, classifier: TextClassifier, *, max_texts: int, num_threads: int = 1) -> None:
        self.classifier, self._max_texts = classifier, max_texts
        self._num_threads = num_threads if classifier.is_thread_safe else 1
        self._batch_texts = 1 if classifier.reads_one_text_at_a_time else _MAX_BATCH_TEXTS
        self._jobs: deque[_Job] = deque()
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._is_stopping = False
        self._seconds_per_text = 0.01
        self.num_pending_texts = 0

    def start(self) -> None:
        """Read a text, so that the first request finds a warm model, and start the threads."""
        self.classifier.predict(["warm up"])
        self._threads = [
            threading.Thread(target=self._work, name=f"inference-{index}", daemon=True)
            for index in range(self._num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what waits, and end the threads."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def is_running(self) -> bool:
        """Whether all threads are alive."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    async def answer(self, texts: Sequence[Text], timeout: float) -> Answers:
        """Answer texts.

        Args:
            texts: Texts or pairs of texts.
            timeout: Seconds until the request is given up.

        Raises:
            RequestError: The queue is full (429), the time is over (504), or a text has no tokens
                (422).
        """
        loop = asyncio.get_running_loop()
        job = _Job(texts, loop.create_future(), loop)
        self._put(job)
        timer = loop.call_later(timeout, _expire, job, timeout)
        try:
            return await job.future
        finally:
            timer.cancel()
            if job.future.cancelled() or job.future.exception() is not None:
                self._withdraw(job)

    def _put(self, job: _Job) -> None:
        with self._condition:
            pending = self.num_pending_texts
            if pending and pending + len(job.texts) > self._max_texts:
                seconds = pending * self._seconds_per_text / self._num_threads
                wait = min(max(1, math.ceil(seconds)), _MAX_RETRY_SECONDS)
                raise RequestError(
                    429,
                    f"The queue is full: {pending:,} texts wait. Try again in {wait} s.",
                    {"Retry-After": str(wait)},
                )
            self.num_pending_texts += len(job.texts)
            self._jobs.append(job)
            self._condition.notify()

    def _withdraw(self, job: _Job) -> None:
        """Drop a job that nobody waits for, unless it runs."""
        with self._condition, suppress(ValueError):
            self._jobs.remove(job)
            self.num_pending_texts -= len(job.texts)

    def _work(self) -> None:
        while jobs := self._take():
            texts = [text for job in jobs for text in job.texts]
            started = time.perf_counter()
            try:
                self._answer_jobs(jobs, texts)
            finally:
                seconds = (time.perf_counter() - started) / len(texts)
                with self._condition:
                    self.num_pending_texts -= len(texts)
                    self._seconds_per_text += 0.1 * (seconds - self._seconds_per_text)

    def _take(self) -> list[_Job]:
        """Wait for jobs, and return those of a batch; none once the queue has stopped."""
        with self._condition:
            while not self._jobs:
                if self._is_stopping:
                    return []
                self._condition.wait()
            jobs = [self._jobs.popleft()]
            count = len(jobs[0].texts)
            while self._jobs and count + len(self._jobs[0].texts) <= self._batch_texts:
                jobs.append(self._jobs.popleft())
                count += len(jobs[-1].texts)
            return jobs

    def _answer_jobs(self, jobs: Sequence[_Job], texts: Sequence[Text]) -> None:
        try:
            answers = self._predict(texts)
        except UserError as error:
            if len(jobs) == 1:
                _resolve(jobs[0], RequestError(422, str(error)))
                return
            # Only the request at fault gets the error.
            for job in jobs:
                self._answer_jobs([job], job.texts)
            return
        except Exception as error:
            # The message may quote a text: only the place is logged.
            place = "".join(traceback.format_tb(error.__traceback__)[-3:])
            _LOGGER.error("The model failed: %s\n%s", type(error).__name__, place)
            for job in jobs:
                _resolve(job, RequestError(500, "The model failed on these texts."))
            return
        start = 0
        for job in jobs:
            end = start + len(job.texts)
            part = Answers(
                answers.logits[start:end], answers.predictions[start:end], answers.seconds
            )
            _resolve(job, part)
            start = end

    def _predict(self, texts: Sequence[Text]) -> Answers:
        import numpy as np

        started = time.perf_counter()
        kinds = [isinstance(text, str) for text in texts]
        logits = np.zeros((len(texts), len(self.classifier.labels)), dtype=np.float32)
        predictions: dict[int, Prediction] = {}
        # A classifier takes texts or pairs; the requests of a batch may have both.
        for kind in {*kinds}:
            rows = [index for index, each in enumerate(kinds) if each == kind]
            of_kind = [texts[index] for index in rows]
            logits[rows], answers = self.classifier.answer(of_kind, len(self.classifier.labels))
            predictions.update(zip(rows, answers, strict=True))
        in_order = [predictions[index] for index in range(len(texts))]
        return Answers(logits, in_order, time.perf_counter() - started)


def _expire(job: _Job, timeout: float) -> None:
    if not job.future.done():
        job.future.set_exception(RequestError(504, f"There was no answer within {timeout:g} s."))


def _resolve(job: _Job, outcome: Answers | RequestError) -> None:
    # Without an event loop nobody waits any more.
    with suppress(RuntimeError):
        job.loop.call_soon_threadsafe(_set_outcome, job.future, outcome)


def _set_outcome(future: "asyncio.Future[Answers]", outcome: Answers | RequestError) -> None:
    if future.done():
        return
    if isinstance(outcome, RequestError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
