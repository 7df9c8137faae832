"""Splits to evaluate on."""

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import DataError
from kdcli.recipe.schema import EvaluateConfig
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import MULTI_LABEL, SINGLE_LABEL


def select_evaluation_splits(config: EvaluateConfig, corpus: DatasetSplits) -> list[str]:
    """Return the splits that the recipe names and the data has.

    Raises:
        DataError: The data has none of the splits, or the out-of-scope label is invalid.
    """
    splits: list[str] = [name for name in config.splits if name in corpus.splits]
    if not splits:
        raise DataError(f"evaluate.splits: the data has no split {' or '.join(config.splits)}.")
    if config.out_of_scope is not None and corpus.task is not SINGLE_LABEL:
        raise DataError(
            f"evaluate.out_of_scope: not available for {corpus.task}.",
            "Remove the key."
            + " A text that fits no label gets none." * (corpus.task is MULTI_LABEL),
        )
    if config.out_of_scope is not None and config.out_of_scope not in corpus.label_names:
        raise DataError(
            f"evaluate.out_of_scope: the data has no label {config.out_of_scope}.",
            f"Its labels: {abbreviate_list(corpus.label_names)}.",
        )
    return splits
