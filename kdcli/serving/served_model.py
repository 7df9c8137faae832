"""The model behind all routes."""

from collections.abc import Sequence

from kdcli.api.cascade import CascadeClassifier
from kdcli.runtime import ScoreFunction, Text, TextClassifier
from kdcli.serving.inference_queue import Answers, InferenceQueue
from kdcli.serving.limits import ServingLimits
from kdcli.serving.metrics import ServingMetrics


class ServedModel:
    """A classifier with its queue, limits and metrics.

    Args:
        classifier: The classifier.
        name: Its name in answers, metadata and addresses.
        limits: Limits on requests.
        metrics: Counters, unless nothing is to be counted.
        num_threads: Threads that predict at once.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        name: str,
        limits: ServingLimits,
        metrics: ServingMetrics | None = None,
        num_threads: int = 1,
    ) -> None:
        self.classifier, self.name, self.limits = classifier, name, limits
        self.labels, self.task = classifier.labels, classifier.task
        self.queue = InferenceQueue(
            classifier, max_texts=limits.max_queued_texts, num_threads=num_threads
        )
        self._metrics = metrics

    async def answer(self, texts: Sequence[Text]) -> Answers:
        """Answer texts, or pairs of texts.

        Raises:
            RequestError: There are too many or too long texts, or the model can't answer in time.
        """
        self.limits.check_texts(texts)
        answers = await self.queue.answer(texts, self.limits.timeout)
        if self._metrics is not None:
            self._metrics.count_predictions(answers.predictions)
            self._metrics.pending.set(self.queue.num_pending_texts)
            if isinstance(self.classifier, CascadeClassifier):
                self._metrics.deferral_alarm.set(self.classifier.alarm is not None)
        return answers

    def rank_labels(
        self, answers: Answers, top_k: int | None = None, function: ScoreFunction | None = None
    ) -> list[list[tuple[str, float]]]:
        """List each text's labels with scores: those that kd decided for first.

        Protocols that only know labels and scores show the decision this way: the out-of-scope
        label comes first for a text that is refused, though another has a higher probability; the
        labels that a multi-label model gives come before the others. Within both, the best first.

        Args:
            answers: The answers for some texts.
            top_k: Labels of a text. Default: all.
            function: The scores. Default: the task's calibrated probabilities.
        """
        scores = self.classifier.compute_scores(answers.logits, function).tolist()
        rows = []
        for prediction, row in zip(answers.predictions, scores, strict=True):
            score_of = dict(zip(self.labels, row, strict=True))
            decided = {prediction.label, *prediction.labels}
            # A regression has no `top`.
            best_first = [label for label, _ in prediction.top] or self.labels
            ranked = [label for label in best_first if label in decided]
            ranked += [label for label in best_first if label not in decided]
            rows.append([(label, score_of[label]) for label in ranked[:top_k]])
        return rows
