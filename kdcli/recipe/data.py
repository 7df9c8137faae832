"""The part `data`: where texts and labels come from."""

from typing import Annotated

from pydantic import Field

from kdcli.recipe.base import Revision, Source, Spec

_Split = Annotated[str, Field(min_length=1)]
_Files = Annotated[tuple[_Split, ...], Field(min_length=1)]


class SplitsSpec(Spec):
    """Which split of the data set plays which part; in a folder, which files do."""

    train: _Split | _Files = Field(
        "train",
        description="The split to train on. In a folder also a file, a pattern such as "
        "'part-*.csv', or a list of them.",
    )
    validation: _Split | _Files | None = Field(
        None,
        description="The split to validate on. Left out: 'validation', 'valid', 'dev' or 'eval' "
        "where there is one, otherwise a part of train is set aside.",
    )
    test: _Split | _Files | None = Field(
        None, description="The split to test on. Left out: 'test', where there is one."
    )


class DataSpec(Spec):
    """Where the texts and labels come from."""

    dataset: Source = Field(
        min_length=1,
        description="A Hub id, a file (csv, tsv, jsonl, json, parquet, arrow), a pattern such as "
        "'data/part-*.csv', or a folder.",
    )
    config: str | None = Field(None, description="The Hub data set's configuration.")
    revision: Revision | None = Field(
        None, description="The Hub data set's revision: pin a commit."
    )
    text: str | tuple[str, str] = Field(
        "text", description="The column of the text, or the two columns of a pair."
    )
    label: str = Field("label", description="The column of the label.")
    splits: SplitsSpec = SplitsSpec()
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="How much of train to set aside where validation is missing."
    )
    max_length: int | None = Field(
        None, ge=2, description="Tokens to keep of a text. Left out: as many as the model takes."
    )
