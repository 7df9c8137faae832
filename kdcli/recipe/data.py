"""The section `data` of a recipe: texts, labels, splits and truncation."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from kdcli import tasks
from kdcli.recipe.base import FrozenConfig, Revision, SourceReference

TruncationMode = Literal["head", "tail", "both", "windows"]
_SplitName = Annotated[str, Field(min_length=1)]
_FilePatterns = Annotated[tuple[_SplitName, ...], Field(min_length=1)]


class SplitsConfig(FrozenConfig):
    """The splits for training, validation and test; for a folder, their files."""

    train: _SplitName | _FilePatterns = Field(
        "train",
        description="The split to train on. For a folder also a file, a pattern such as "
        "'part-*.csv', or a list of these.",
    )
    validation: _SplitName | _FilePatterns | None = Field(
        None,
        description="The split to validate on. Default: 'validation', 'valid', 'val', 'dev' or "
        "'eval' if there is one, otherwise a part of train is held out. null: a part of train is "
        "always held out.",
    )
    test: _SplitName | _FilePatterns | None = Field(
        None,
        description="The split to test on. Default: 'test', if it has labels. null: none.",
    )

    @property
    def explicit_splits(self) -> dict[str, str | tuple[str, ...] | None]:
        """The splits that the recipe states, null included."""
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
                        f"uses {name} as {other} and as {part}, so that the metrics of one would "
                        f"be those of the other; write {part}: null if there are no other texts"
                    )
        return self


class DataConfig(FrozenConfig):
    """The source of texts and labels."""

    dataset: SourceReference = Field(
        min_length=1,
        description="A Hub id, a file (csv, tsv, jsonl, json, xlsx, parquet, arrow, or the format "
        "of an installed reader), a pattern such as 'data/part-*.csv', or a folder.",
    )
    config: str | None = Field(None, description="The Hub data set's configuration.")
    revision: Revision | None = Field(
        None, description="The Hub data set's revision: pin a commit."
    )
    text: str | tuple[str, str] = Field(
        "text", description="The text column, or the two columns of a pair."
    )
    label: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        "label",
        description="The column of the label, of lists of labels, or of a score; or several "
        "columns of 0 and 1, one for each label. null: the data has no labels, and the teacher's "
        "predictions take their place.",
    )
    label_separator: str | None = Field(
        None, min_length=1, description="The separator between the labels of a text, in one cell."
    )
    task: tasks.TaskName | None = Field(
        None,
        description="The type of the labels, as transformers' problem_type. Default: by the "
        "column. Names and whole numbers are single labels, lists are several labels, fractions "
        "are scores. single_label_classification makes names of fractions.",
    )
    splits: SplitsConfig = SplitsConfig()
    unlabeled: SourceReference | None = Field(
        None,
        min_length=1,
        description="Texts without labels, on which the student learns from the teacher alone: a "
        "dataset with the same text columns.",
    )
    validation_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="The share of train to hold out if there is no validation split.",
    )
    max_length: int | None = Field(
        None,
        ge=2,
        description="The largest number of tokens to keep of a text. Default: the model's limit.",
    )

    truncation: TruncationMode | None = Field(
        None,
        description="What to keep of a longer text: its 'head', its 'tail', half of each ('both'), "
        "or all of it, in 'windows' that overlap by a quarter and whose logits are averaged. "
        "Default: as the model's tokenizer truncates, mostly the head.",
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The column of the text, or the two columns of a pair."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The label columns: one, one for each label, or none."""
        return (self.label,) if isinstance(self.label, str) else self.label or ()

    @property
    def unlabeled_data_config(self) -> "DataConfig":
        """The config of the unlabelled texts, whose splits have their usual names."""
        changes = {
            "dataset": self.unlabeled,
            "splits": SplitsConfig(),
            "config": None,
            "revision": None,
        }
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _check_truncation_of_pairs(self) -> "DataConfig":
        if self.truncation in ("both", "windows") and not isinstance(self.text, str):
            raise ValueError(
                f"has truncation: {self.truncation}, which is for single texts, not for pairs"
            )
        return self

    @model_validator(mode="after")
    def _check_multilabel_format(self) -> "DataConfig":
        several = [
            key
            for key, present in (
                ("label_separator", self.label_separator),
                ("one column a label", len(self.label_columns) > 1),
            )
            if present
        ]
        if self.label_separator is not None and self.label is None:
            raise ValueError("has label_separator, but no labels: label is null")
        if len(several) > 1:
            raise ValueError(
                "has label_separator, which is for one label column, and several label columns"
            )
        if several and self.task not in (None, tasks.MULTI_LABEL.name):
            raise ValueError(f"has task: {self.task}, but {several[0]} is for {tasks.MULTI_LABEL}")
        return self
