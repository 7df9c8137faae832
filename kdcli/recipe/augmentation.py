"""The part `augment`: more texts for the teacher to speak of, made from those of train."""

from pydantic import Field, model_validator

from kdcli.recipe.base import FrozenConfig, Revision, SourceReference


class AugmentationConfig(FrozenConfig):
    """How copies of the training texts are altered."""

    copies: int = Field(1, ge=1, description="How many altered copies of each training text.")
    drop: float = Field(
        0.1, ge=0, lt=1, description="The share of a copy's words that is left out."
    )
    mask: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The share of its words that a masked language model writes anew.",
    )
    model: SourceReference | None = Field(
        None,
        min_length=1,
        description="The masked language model, for mask: a Hub id, a folder, or "
        "package:NAME/PATH.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    crossover: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The share of the copies whose second half is that of another text.",
    )

    @model_validator(mode="after")
    def _check_texts_are_altered(self) -> "AugmentationConfig":
        if not (self.drop or self.mask or self.crossover):
            raise ValueError(
                "has neither drop nor mask nor crossover: the copies would be the texts"
            )
        if self.drop + self.mask >= 1:
            raise ValueError("has drop and mask that leave no word of a text")
        if (self.mask > 0) != (self.model is not None):
            raise ValueError("takes mask together with model, the masked language model")
        return self
