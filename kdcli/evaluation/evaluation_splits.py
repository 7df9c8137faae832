"""What a recipe has measured, as far as the data has it."""

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import DataError
from kdcli.recipe.schema import EvaluateConfig
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import MULTI_LABEL, SINGLE_LABEL


def select_evaluation_splits(config: EvaluateConfig, corpus: DatasetSplits) -> list[str]:
    """The splits to measure on.

    Raises:
        DataError: None of the splits is there, or the out-of-scope label is no label.
    """
    splits: list[str] = [name for name in config.splits if name in corpus.splits]
    if not splits:
        raise DataError(f"The data has no split {' or '.join(config.splits)} to measure on.")
    if config.out_of_scope is not None and corpus.task is not SINGLE_LABEL:
        raise DataError(
            f"evaluate.out_of_scope: is not for {corpus.task}.",
            "Leave it out: a text that fits no label has none."
            if corpus.task is MULTI_LABEL
            else "Leave it out.",
        )
    if config.out_of_scope is not None and config.out_of_scope not in corpus.label_names:
        raise DataError(
            f"evaluate.out_of_scope: the data has no label {config.out_of_scope}.",
            f"Its labels: {abbreviate_list(corpus.label_names)}.",
        )
    return splits
