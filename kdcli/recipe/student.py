"""The part `student`: how the student is built."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdcli.recipe.base import FrozenConfig, Revision, SourceReference
from kdcli.recipe.student_family_plugin import (
    BUILT_IN_FAMILIES,
    StudentFamilyPlugin,
    find_student_family_plugin,
)

StudentArchitecture = Literal["auto", "same", "distilbert"]
LayerSelectionStrategy = Literal["spaced", "first", "last", "importance"]
# A recipe may set at most one key of each group.
MUTUALLY_EXCLUSIVE_KEYS = (
    ("drop_every", "keep_layers", "num_hidden_layers", "model"),
    ("keep_decoder_layers", "num_decoder_layers"),
)
LayerIndices = tuple[Annotated[int, Field(ge=0)], ...]


class StudentConfig(FrozenConfig):
    """The student: cut from the teacher, a smaller pretrained model, or of another family."""

    family: str | None = Field(
        None,
        min_length=1,
        description="'static' (token vectors and a small head), 'tfidf' (n-grams and a linear "
        "layer), 'head' (a frozen encoder and a linear layer), a student family of an installed "
        "package, or package.module:Name. Default: 'transformer', with the other keys.",
    )
    options: Mapping[str, Any] | None = Field(
        None, validate_default=True, description="The family's own keys."
    )

    drop_every: int | None = Field(
        None,
        ge=2,
        description="Drop every nth layer: 2 keeps layers 0, 2, 4, … The default if no other key "
        "makes the student smaller.",
    )
    keep_layers: LayerIndices | None = Field(
        None, min_length=1, description="The teacher's layers to keep, counted from 0."
    )
    num_hidden_layers: int | None = Field(
        None, ge=1, description="Number of the teacher's layers to keep; strategy chooses them."
    )
    strategy: LayerSelectionStrategy = Field(
        "spaced",
        description="'spaced' keeps the first layer, the last, and others evenly between; "
        "'importance' drops those that the teacher needs least on the training texts.",
    )
    keep_decoder_layers: LayerIndices | None = Field(
        None, min_length=1, description="The decoder's layers to keep, in an encoder-decoder."
    )
    num_decoder_layers: int | None = Field(
        None, ge=1, description="Number of the decoder's layers to keep. Default: as the encoder."
    )
    model: SourceReference | None = Field(
        None,
        min_length=1,
        description="A smaller pretrained model to start from instead; for families static and "
        "head the encoder, by default the teacher's before fine-tuning.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    architecture: StudentArchitecture = Field(
        "auto",
        description="'distilbert' drops token types and pooler; 'same' keeps the teacher's; "
        "'auto' is distilbert for a BERT teacher and the same for any other.",
    )

    num_attention_heads: int | None = Field(
        None,
        ge=1,
        description="Attention heads to keep in each layer: those that matter most for the "
        "teacher's outputs on the training texts.",
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="Feed-forward neurons to keep in each layer, chosen like heads."
    )
    hidden_size: int | None = Field(
        None,
        ge=1,
        description="Width of the hidden states: the student has the teacher's architecture and "
        "random weights. Default: the teacher's width and weights.",
    )
    trim_vocab: bool | Annotated[int, Field(ge=1)] = Field(
        False,
        description="Number of vocabulary entries to keep, those of the training texts first; "
        "true: 16,000. Entries that the texts and single letters need are always kept.",
    )

    @property
    def reduces_width_or_vocab(self) -> bool:
        """Return whether more than layers is removed."""
        return bool(
            self.num_attention_heads
            or self.intermediate_size
            or self.hidden_size
            or self.trim_vocab
        )

    @property
    def has_random_weights(self) -> bool:
        """Return whether some initial weights are random: all, or those of a new head."""
        return any(key is not None for key in (self.hidden_size, self.model, self.family))

    @property
    def student_family(self) -> StudentFamilyPlugin | None:
        """The family with its options; None for kd's own."""
        if self.family is None:
            return None
        return find_student_family_plugin(self.family).model_validate(self.options or {})

    @property
    def is_cut_from_teacher(self) -> bool:
        """Return whether the student consists of parts of the teacher."""
        return self.model is None and self.family is None

    @property
    def requires_texts(self) -> bool:
        """Return whether texts decide what is kept."""
        units = self.hidden_size is None and (self.num_attention_heads or self.intermediate_size)
        return bool(self.strategy == "importance" or units or self.trim_vocab)

    @field_validator("family")
    @classmethod
    def _drop_default_family(cls, family: str | None) -> str | None:
        return None if family == "transformer" else family

    @field_validator("options")
    @classmethod
    def _validate_options(
        cls, options: Mapping[str, Any] | None, info: ValidationInfo
    ) -> Mapping[str, Any] | None:
        family = info.data.get("family")
        if family is None:
            return options
        return (
            find_student_family_plugin(family).model_validate(options or {}).model_dump(mode="json")
        )

    @model_validator(mode="after")
    def _check_family(self) -> "StudentConfig":
        if self.family is None:
            if self.options is not None:
                raise ValueError("has options, but no family that they belong to")
            return self
        own_keys = {"family", "options"}
        if self.family in BUILT_IN_FAMILIES:
            own_keys |= {"model", "revision"}
        for key, field in type(self).model_fields.items():
            if key not in own_keys and getattr(self, key) != field.default:
                raise ValueError(
                    f"has family and {key}, which is a key of kd's own students; remove one"
                )
        return self

    @model_validator(mode="after")
    def _check_layer_selection(self) -> "StudentConfig":
        for ways in MUTUALLY_EXCLUSIVE_KEYS:
            named = [key for key in ways if getattr(self, key) is not None]
            if len(named) > 1:
                raise ValueError(
                    f"takes one of {', '.join(ways)}, not {' and '.join(named)}; remove all but one"
                )
        if self.model is not None and self.architecture == "distilbert":
            raise ValueError(
                "has architecture: distilbert, which is for a student cut from the teacher"
            )
        if self.model is not None and self.hidden_size is not None:
            raise ValueError("has hidden_size, which is for a student without a model")
        if (
            self.strategy != "spaced"
            and self.num_hidden_layers is None
            and self.num_decoder_layers is None
        ):
            raise ValueError(f"has strategy: {self.strategy}, but no number of layers to choose")
        for keep in (self.keep_layers, self.keep_decoder_layers):
            if keep is not None and list(keep) != sorted(set(keep)):
                raise ValueError(f"must name layers in rising order, each once, not {list(keep)}")
        return self
