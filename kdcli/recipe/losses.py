"""The part `distill.losses`: the terms that a student's loss is the weighted sum of."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from kdcli import tasks
from kdcli.recipe.base import FrozenConfig


class LinearRampConfig(FrozenConfig):
    """A setting that changes evenly from the first step to the last."""

    start: float = Field(ge=0, description="At the first step.")
    end: float = Field(ge=0, description="At the last step.")


class LossConfig(FrozenConfig):
    """What every loss term has."""

    weight: LinearRampConfig | Annotated[float, Field(ge=0)] = Field(
        1.0, description="The term's share of the loss; {start: 1, end: 0} changes as it trains."
    )

    @property
    def is_active(self) -> bool:
        """Whether the term ever bears on the loss."""
        return self.weight != 0 and self.weight != LinearRampConfig(start=0, end=0)


class TemperatureLossConfig(LossConfig):
    """A term of softened outputs."""

    temperature: LinearRampConfig | Annotated[float, Field(gt=0)] = Field(
        2.0, description="Softens teacher and student alike; {start: 4, end: 1} anneals."
    )

    @model_validator(mode="after")
    def _check_temperature_positive(self) -> "TemperatureLossConfig":
        if isinstance(self.temperature, LinearRampConfig) and not (
            self.temperature.start and self.temperature.end
        ):
            raise ValueError("has a temperature that begins or ends at 0: it is above 0")
        return self


class LayerwiseLossConfig(LossConfig):
    """A term that compares layers of the student with layers of the teacher."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="For each layer of the student the teacher's to compare it with, counted from "
        "0. Left out: the layer it was cut from, or evenly spread ones.",
    )


class CrossEntropyLossConfig(LossConfig):
    """Cross-entropy with the data's own (hard) labels; of each label, where a text has several."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class LabelsMseLossConfig(LossConfig):
    """Mean squared difference from the data's own scores."""

    kind: Literal["labels_mse"] = "labels_mse"


class SoftTargetsLossConfig(TemperatureLossConfig):
    """KL divergence to the teacher's softened outputs, times the temperature squared.

    Where a text has several labels, it is that of each label, and their mean.
    """

    kind: Literal["soft_targets"] = "soft_targets"
    standardise: bool = Field(
        False, description="Bring each text's logits to mean 0 and standard deviation 1 before."
    )


class LogitsMseLossConfig(LossConfig):
    """Mean squared difference of the logits."""

    kind: Literal["logits_mse"] = "logits_mse"


class DecoupledKdLossConfig(TemperatureLossConfig):
    """Soft targets in two parts: the label against the others, and the others among themselves."""

    kind: Literal["decoupled"] = "decoupled"
    target: float = Field(1.0, ge=0, description="Weight of the label against the others.")
    others: float = Field(2.0, ge=0, description="Weight of the others among themselves.")


class CorrelationLossConfig(TemperatureLossConfig):
    """How little the softened outputs correlate, over classes and over texts (DIST)."""

    kind: Literal["correlation"] = "correlation"
    classes: float = Field(1.0, ge=0, description="Weight of the order of a text's classes.")
    texts: float = Field(1.0, ge=0, description="Weight of the order of a class's texts.")


class HiddenMseLossConfig(LayerwiseLossConfig):
    """Mean squared difference of hidden states; projected where widths differ."""

    kind: Literal["hidden_mse"] = "hidden_mse"


class HiddenCosineLossConfig(LayerwiseLossConfig):
    """1 minus the cosine of hidden states; projected where widths differ."""

    kind: Literal["hidden_cosine"] = "hidden_cosine"


class AttentionKlLossConfig(LayerwiseLossConfig):
    """KL divergence of what each token looks at."""

    kind: Literal["attention"] = "attention"


class AttentionRelationsLossConfig(LossConfig):
    """KL divergence of how queries, keys and values of tokens relate to one another (MiniLMv2)."""

    kind: Literal["relations"] = "relations"
    layer: int | None = Field(
        None, ge=0, description="The teacher's layer, for the student's last. Left out: its last."
    )
    heads: int = Field(12, ge=1, description="Relation heads; divides both widths.")


class EmbeddingMseLossConfig(LossConfig):
    """Mean squared difference of the embeddings' output; projected where widths differ."""

    kind: Literal["embeddings"] = "embeddings"


class ContrastiveLossConfig(LossConfig):
    """Finding a text's teacher representation among those of its batch."""

    kind: Literal["contrastive"] = "contrastive"
    temperature: float = Field(0.1, gt=0, description="Divides the cosines.")


AnyLossConfig = Annotated[
    CrossEntropyLossConfig
    | LabelsMseLossConfig
    | SoftTargetsLossConfig
    | LogitsMseLossConfig
    | DecoupledKdLossConfig
    | CorrelationLossConfig
    | HiddenMseLossConfig
    | HiddenCosineLossConfig
    | AttentionKlLossConfig
    | AttentionRelationsLossConfig
    | EmbeddingMseLossConfig
    | ContrastiveLossConfig,
    Field(discriminator="kind"),
]
LOSS_KINDS: tuple[str, ...] = tuple(
    spec.model_fields["kind"].default for spec in get_args(get_args(AnyLossConfig)[0])
)


def label_only_losses(task: tasks.Task) -> tuple[AnyLossConfig, ...]:
    """What is learnt from the labels alone."""
    return (LabelsMseLossConfig(),) if task is tasks.REGRESSION else (CrossEntropyLossConfig(),)


def default_losses(task: tasks.Task) -> tuple[AnyLossConfig, ...]:
    """The terms of a recipe that names none: teacher and labels, half each."""
    if task is tasks.REGRESSION:
        return (LogitsMseLossConfig(weight=0.5), LabelsMseLossConfig(weight=0.5))
    return (SoftTargetsLossConfig(weight=0.5), CrossEntropyLossConfig(weight=0.5))
