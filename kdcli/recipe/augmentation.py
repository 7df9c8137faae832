"""The part `augment`: altered copies of the training texts, which the teacher labels."""

from pydantic import Field, model_validator

from kdcli.recipe.base import FrozenConfig, Revision, SourceReference


class AugmentationConfig(FrozenConfig):
    """Alterations of the training texts."""

    copies: int = Field(1, ge=1, description="Altered copies of each training text.")
    drop: float = Field(0.1, ge=0, lt=1, description="Share of a copy's words that are dropped.")
    mask: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of its words that a masked language model replaces.",
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
        description="Share of the copies whose second half comes from another text.",
    )

    @model_validator(mode="after")
    def _check_texts_are_altered(self) -> "AugmentationConfig":
        if not (self.drop or self.mask or self.crossover):
            raise ValueError(
                "has neither drop nor mask nor crossover: the copies would equal the texts"
            )
        if self.drop + self.mask >= 1:
            raise ValueError("has drop and mask that together leave no word of a text")
        if (self.mask > 0) != (self.model is not None):
            raise ValueError("needs both mask and model (the masked language model), or neither")
        return self
