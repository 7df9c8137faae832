"""The part `student`: how it is made."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdcli.recipe.base import FrozenConfig, Revision, SourceReference

StudentArchitecture = Literal["auto", "same", "distilbert"]
LayerSelectionStrategy = Literal["spaced", "first", "last", "importance"]
# Of each of these a recipe names one at most.
MUTUALLY_EXCLUSIVE_KEYS = (
    ("drop_every", "keep_layers", "num_hidden_layers", "model"),
    ("keep_decoder_layers", "num_decoder_layers"),
)
LayerIndices = tuple[Annotated[int, Field(ge=0)], ...]


class StudentConfig(FrozenConfig):
    """How the student is made: cut out of the teacher, or a smaller pretrained model."""

    drop_every: int | None = Field(
        None,
        ge=2,
        description="Leave out every nth layer: 2 keeps layers 0, 2, 4, … It is the default where "
        "nothing else is to go.",
    )
    keep_layers: LayerIndices | None = Field(
        None, min_length=1, description="The teacher's layers to keep, counted from 0."
    )
    num_hidden_layers: int | None = Field(
        None, ge=1, description="How many of the teacher's layers to keep; strategy says which."
    )
    strategy: LayerSelectionStrategy = Field(
        "spaced",
        description="'spaced' keeps the first layer, the last, and others evenly between; "
        "'importance' leaves out those that the teacher does best without on the training texts.",
    )
    keep_decoder_layers: LayerIndices | None = Field(
        None, min_length=1, description="The layers to keep of an encoder-decoder's decoder."
    )
    num_decoder_layers: int | None = Field(
        None, ge=1, description="How many to keep of it. Left out: it is cut as the encoder is."
    )
    model: SourceReference | None = Field(
        None, min_length=1, description="A smaller pretrained model to start from instead."
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
        description="How many attention heads to keep in each layer: those that matter most for "
        "the teacher's outputs on the training texts.",
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="How many feed-forward neurons to keep in each layer, likewise."
    )
    hidden_size: int | None = Field(
        None,
        ge=1,
        description="How wide the hidden states are: a student of the teacher's family whose "
        "weights are drawn at random. Left out: the teacher's own.",
    )
    trim_vocab: bool | Annotated[int, Field(ge=1)] = Field(
        False,
        description="How many pieces of the vocabulary to keep, those of the training texts "
        "first; true: 16,000. Texts and letters keep what they need in any case.",
    )

    @property
    def reduces_width_or_vocab(self) -> bool:
        """Whether more than layers goes."""
        return bool(
            self.num_attention_heads
            or self.intermediate_size
            or self.hidden_size
            or self.trim_vocab
        )

    @property
    def has_random_weights(self) -> bool:
        """Whether some of its initial weights are drawn at random: all, or those of a new head."""
        return self.hidden_size is not None or self.model is not None

    @property
    def requires_texts(self) -> bool:
        """Whether what is kept depends on texts."""
        units = self.hidden_size is None and (self.num_attention_heads or self.intermediate_size)
        return bool(self.strategy == "importance" or units or self.trim_vocab)

    @model_validator(mode="after")
    def _check_layer_selection(self) -> "StudentConfig":
        for ways in MUTUALLY_EXCLUSIVE_KEYS:
            named = [key for key in ways if getattr(self, key) is not None]
            if len(named) > 1:
                raise ValueError(
                    f"takes one of {', '.join(ways[:-1])} and {ways[-1]}, not "
                    f"{' and '.join(named)}; set the others to null"
                )
        if self.model is not None and self.architecture == "distilbert":
            raise ValueError("takes architecture: distilbert only where it is cut from the teacher")
        if self.model is not None and self.hidden_size is not None:
            raise ValueError("takes hidden_size only where the student is of the teacher's family")
        if (
            self.strategy != "spaced"
            and self.num_hidden_layers is None
            and self.num_decoder_layers is None
        ):
            raise ValueError(f"has strategy: {self.strategy}, but no number of layers to choose")
        for keep in (self.keep_layers, self.keep_decoder_layers):
            if keep is not None and list(keep) != sorted(set(keep)):
                raise ValueError(f"keeps layers in rising order, each once, not {list(keep)}")
        return self
