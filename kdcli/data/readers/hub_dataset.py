"""Data sets of the Hugging Face Hub."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import hub
from kdcli.data.readers.registry import file_format
from kdcli.errors import DataError, KdError, as_resource_error, first_message_line
from kdcli.recipe.data import DataConfig

if TYPE_CHECKING:
    from datasets import DatasetDict

_RENAMED_DATASETS = {"clinc_oos": "clinc/clinc_oos"}


def load_hub_dataset(data_config: DataConfig, notes: list[str]) -> "DatasetDict":
    """Load a data set by its Hub id, with all splits; cached files are used when offline.

    Args:
        data_config: Names the data set, its configuration and revision.
        notes: Gets a sentence if the data set was renamed.

    Raises:
        DataError: There is no such data set, or it can't be read.
        RemoteServiceError: The Hub can't be reached.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name = _RENAMED_DATASETS.get(data_config.dataset, data_config.dataset)
    if name != data_config.dataset:
        notes.append(f"The data set {data_config.dataset} is called {name} now.")
    if file_format(Path(name)) or name.count("/") != 1:
        raise DataError(
            f"There is no data set {name}: no such file or folder, and a Hub id is OWNER/NAME."
        )
    try:
        with hub.translate_hub_errors(f"the data set {name}"):
            return hub.read_with_cache_fallback(
                lambda: load_dataset(name, data_config.config, revision=data_config.revision)
            )
    except KdError:
        raise
    except DatasetNotFoundError as error:
        raise DataError(
            f"There is no data set {name}: no such file or folder here, and none on the Hub "
            "that you may see."
        ) from error
    except Exception as error:
        raise unreadable_dataset_error(f"The data set {name}", error) from error


def unreadable_dataset_error(
    dataset_name: object, error: BaseException, hint: str = ""
) -> DataError:
    """The error for a data set that `datasets` can't read, with the reason in its words."""
    if shortage := as_resource_error(error):
        raise shortage from error
    error = _root_cause(error)
    if configs := re.search(r"available configs: \[(.*)\]", str(error)):
        return DataError(
            f"{dataset_name} has several configurations.", f"data.config is one of {configs[1]}."
        )
    return DataError(f"{dataset_name} can't be read: {first_message_line(error)}", hint)


def _root_cause(error: BaseException) -> BaseException:
    """The first error of a chain: `datasets` wraps the reason in its own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
