"""The part `data`: where texts and labels come from."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from kdcli import tasks
from kdcli.recipe.base import FrozenConfig, Revision, SourceReference

TruncationMode = Literal["head", "tail", "both", "windows"]
_SplitName = Annotated[str, Field(min_length=1)]
_FilePatterns = Annotated[tuple[_SplitName, ...], Field(min_length=1)]


class SplitsConfig(FrozenConfig):
    """Which split of the data set plays which part; in a folder, which files do."""

    train: _SplitName | _FilePatterns = Field(
        "train",
        description="The split to train on. In a folder also a file, a pattern such as "
        "'part-*.csv', or a list of them.",
    )
    validation: _SplitName | _FilePatterns | None = Field(
        None,
        description="The split to validate on. Left out: 'validation', 'valid', 'dev' or 'eval' "
        "where there is one, otherwise a part of train is set aside. null: a part of train is set "
        "aside in any case.",
    )
    test: _SplitName | _FilePatterns | None = Field(
        None,
        description="The split to test on. Left out: 'test', where there is one with labels. "
        "null: none.",
    )

    @property
    def explicit_splits(self) -> dict[str, str | tuple[str, ...] | None]:
        """By part, what the recipe says of it; null differs from nothing."""
        return {part: getattr(self, part) for part in ("train", "validation", "test")
                if part in self.model_fields_set}  # fmt: skip

    @model_serializer(mode="wrap")
    def _serialize_explicit_splits(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {part: split for part, split in written.items()
                if split is not None or part in self.model_fields_set}  # fmt: skip

    @model_validator(mode="after")
    def _check_splits_are_distinct(self) -> "SplitsConfig":
        owners: dict[str, str] = {}
        for part, split in (("train", self.train), *self.explicit_splits.items()):
            for name in (split,) if isinstance(split, str) else split or ():
                if (other := owners.setdefault(name, part)) != part:
                    raise ValueError(
                        f"has {name} as {other} and as {part}: figures of one would be called "
                        f"those of the other; write {part}: null where there are no other texts"
                    )
        return self


class DataConfig(FrozenConfig):
    """Where the texts and labels come from."""

    dataset: SourceReference = Field(
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
    label: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        "label",
        description="The column of the label, of lists of labels, or of a score; or several "
        "columns of 0 and 1, one a label. null: there are no labels, and what the teacher says "
        "stands for them.",
    )
    label_separator: str | None = Field(
        None, min_length=1, description="What stands between a text's labels, where it has several."
    )
    task: tasks.TaskName | None = Field(
        None,
        description="What the labels are, as transformers' problem_type. Left out: as the column "
        "has it: names and whole numbers are one label each, lists are several, fractions scores. "
        "single_label_classification makes fractions names.",
    )
    splits: SplitsConfig = SplitsConfig()
    unlabeled: SourceReference | None = Field(
        None,
        min_length=1,
        description="Texts without labels, which the student learns from the teacher's outputs "
        "alone: named as dataset is, with the same text columns.",
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="How much of train to set aside where validation is missing."
    )
    max_length: int | None = Field(
        None, ge=2, description="Tokens to keep of a text. Left out: as many as the model takes."
    )

    truncation: TruncationMode | None = Field(
        None,
        description="What is kept of a longer text: its 'head', its 'tail', half of each ('both'), "
        "or all of it, in 'windows' that overlap by a quarter and whose logits are averaged. Left "
        "out: what the model's tokenizer keeps, mostly the head.",
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The column of the text, or the two columns of a pair."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of the labels: one, one a label, or none."""
        return (self.label,) if isinstance(self.label, str) else self.label or ()

    @property
    def unlabeled_data_config(self) -> "DataConfig":
        """The same of the unlabelled texts: their splits are found by their usual names."""
        own = {
            "dataset": self.unlabeled,
            "splits": SplitsConfig(),
            "config": None,
            "revision": None,
        }
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def _check_truncation_of_pairs(self) -> "DataConfig":
        if self.truncation in ("both", "windows") and not isinstance(self.text, str):
            raise ValueError(f"takes truncation: {self.truncation} for single texts, not for pairs")
        return self

    @model_validator(mode="after")
    def _check_multilabel_format(self) -> "DataConfig":
        several = [key for key, there in (
            ("label_separator", self.label_separator), ("one column a label", len(self.label_columns) > 1)
        ) if there]  # fmt: skip
        if self.label_separator is not None and self.label is None:
            raise ValueError("has label_separator, and no labels: label is null")
        if len(several) > 1:
            raise ValueError("takes label_separator with one column of labels only")
        if several and self.task not in (None, tasks.MULTI_LABEL.name):
            raise ValueError(
                f"has task: {self.task} and {several[0]}, which is for {tasks.MULTI_LABEL}"
            )
        return self
