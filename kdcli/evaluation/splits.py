"""What a recipe has measured, as far as the data has it."""

from kdcli.data.source import Corpus
from kdcli.errors import DataError
from kdcli.recipe.schema import EvaluateSpec
from kdcli.tasks import MULTI_LABEL, SINGLE_LABEL


def measurable(spec: EvaluateSpec, corpus: Corpus) -> list[str]:
    """The splits to measure on.

    Raises:
        DataError: None of the splits is there, or the out-of-scope label is no label.
    """
    splits: list[str] = [name for name in spec.splits if name in corpus.splits]
    if not splits:
        raise DataError(f"The data has no split {' or '.join(spec.splits)} to measure on.")
    if spec.out_of_scope is not None and corpus.task is not SINGLE_LABEL:
        raise DataError(
            f"evaluate.out_of_scope: is not for {corpus.task}.",
            "Leave it out: a text that fits no label has none."
            if corpus.task is MULTI_LABEL
            else "Leave it out.",
        )
    if spec.out_of_scope is not None and spec.out_of_scope not in corpus.labels:
        raise DataError(
            f"evaluate.out_of_scope: the data has no label {spec.out_of_scope}.",
            f"Its labels: {', '.join(corpus.labels[:8])}{', …' * (len(corpus.labels) > 8)}.",
        )
    return splits
