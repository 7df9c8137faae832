"""The recipe: frozen, strict, every key with a default or a reason to be required.

`kd recipe schema` prints this as JSON Schema; the descriptions are what an editor
shows.
"""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Architecture = Literal["auto", "same", "distilbert"]
Strategy = Literal["spaced", "first", "last", "measured"]
LayerNumbers = tuple[Annotated[int, Field(ge=0)], ...]
_NOT_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", re.IGNORECASE)


def _no_url(source: str) -> str:
    # Nothing could be fetched from it, and it may hold a password that a run would write down.
    if "://" in source:
        raise ValueError("is a URL: name a Hub id, a file or a folder")
    return source


def _in_place(revision: str) -> str:
    # The Hub's client keeps it as a path below its cache; to git it is no name.
    if ".." in revision or revision.startswith("/"):
        raise ValueError("is no branch, tag or commit")
    return revision


def _a_name_anywhere(name: str) -> str:
    if _NOT_ON_WINDOWS.fullmatch(name):
        raise ValueError("can't name a folder on Windows: choose another")
    return name


Source = Annotated[str, AfterValidator(_no_url)]
Revision = Annotated[str, AfterValidator(_in_place)]


class Spec(BaseModel):
    """A part of a recipe: frozen, and refusing keys that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SplitsSpec(Spec):
    """Which split of the data set plays which part."""

    train: str = Field("train", description="The split to train on.")
    validation: str | None = Field(
        None,
        description="The split to validate on. Left out: 'validation', 'valid', 'dev' or 'eval' "
        "where there is one, otherwise a part of train is set aside.",
    )
    test: str | None = Field(
        None, description="The split to test on. Left out: 'test', where there is one."
    )


class DataSpec(Spec):
    """Where the texts and labels come from."""

    dataset: Source = Field(
        min_length=1, description="A Hub id, a file (csv, tsv, jsonl, parquet) or a folder."
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


class FitSpec(Spec):
    """How a model is trained: the names and defaults of `transformers.TrainingArguments`."""

    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of Adam.")
    batch_size: int = Field(48, ge=1, description="Texts in a batch, over all processes.")
    epochs: int = Field(5, ge=1, description="Passes over the training data.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches to one optimiser step.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the learning rate falls."
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of the steps that the rate rises in.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's two decay rates.")
    epsilon: float = Field(1e-8, gt=0, description="Adam's epsilon.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW).")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Longest gradient before it is clipped; 0 turns clipping off."
    )
    keep: Literal["last", "best"] = Field(
        "last", description="The last weights, or the epoch's with the best validation accuracy."
    )


class TeacherSpec(Spec):
    """The model to learn from."""

    model: Source = Field(
        min_length=1,
        description="A Hub id, a folder, or package:NAME/PATH for weights in a Python package.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    fine_tune: FitSpec | None = Field(
        None, description="How to fine-tune it first. Left out: it is a finished classifier."
    )


class StudentSpec(Spec):
    """How the student is made: cut out of the teacher, or a smaller pretrained model."""

    drop_every: int | None = Field(
        None,
        ge=2,
        description="Leave out every nth layer: 2 keeps layers 0, 2, 4, … It is the default where "
        "nothing else is to go.",
    )
    keep: LayerNumbers | None = Field(
        None, min_length=1, description="The teacher's layers to keep, counted from 0."
    )
    layers: int | None = Field(
        None, ge=1, description="How many of the teacher's layers to keep; strategy says which."
    )
    strategy: Strategy = Field(
        "spaced",
        description="'spaced' keeps the first layer, the last, and others evenly between; "
        "'measured' leaves out those that the teacher does best without on the training texts.",
    )
    decoder_keep: LayerNumbers | None = Field(
        None, min_length=1, description="The layers to keep of an encoder-decoder's decoder."
    )
    decoder_layers: int | None = Field(
        None, ge=1, description="How many to keep of it. Left out: it is cut as the encoder is."
    )
    model: Source | None = Field(
        None, min_length=1, description="A smaller pretrained model to start from instead."
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    architecture: Architecture = Field(
        "auto",
        description="'distilbert' drops token types and pooler; 'same' keeps the teacher's; "
        "'auto' is distilbert for a BERT teacher and the same for any other.",
    )

    heads: int | None = Field(
        None,
        ge=1,
        description="How many attention heads to keep in each layer: those that matter most for "
        "the teacher's outputs on the training texts.",
    )
    ffn: int | None = Field(
        None, ge=1, description="How many feed-forward neurons to keep in each layer, likewise."
    )
    hidden: int | None = Field(
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
    def narrower(self) -> bool:
        """Whether more than layers goes."""
        return bool(self.heads or self.ffn or self.hidden or self.trim_vocab)

    @property
    def reads_texts(self) -> bool:
        """Whether what is kept depends on texts."""
        units = self.hidden is None and (self.heads or self.ffn)
        return bool(self.strategy == "measured" or units or self.trim_vocab)

    @model_validator(mode="after")
    def _one_way(self) -> "StudentSpec":
        for ways in (("drop_every", "keep", "layers", "model"), ("decoder_keep", "decoder_layers")):
            named = [key for key in ways if getattr(self, key) is not None]
            if len(named) > 1:
                raise ValueError(
                    f"takes one of {', '.join(ways[:-1])} and {ways[-1]}, not "
                    f"{' and '.join(named)}; set the others to null"
                )
        if self.model is not None and self.architecture == "distilbert":
            raise ValueError("takes architecture: distilbert only where it is cut from the teacher")
        if self.model is not None and self.hidden is not None:
            raise ValueError("takes hidden only where the student is of the teacher's family")
        if self.strategy != "spaced" and self.layers is None and self.decoder_layers is None:
            raise ValueError(f"has strategy: {self.strategy}, but no number of layers to choose")
        for keep in (self.keep, self.decoder_keep):
            if keep is not None and list(keep) != sorted(set(keep)):
                raise ValueError(f"keeps layers in rising order, each once, not {list(keep)}")
        return self


class RampSpec(Spec):
    """A setting that changes evenly from the first step to the last."""

    start: float = Field(ge=0, description="At the first step.")
    end: float = Field(ge=0, description="At the last step.")


class LossSpec(Spec):
    """What every loss term has."""

    weight: RampSpec | Annotated[float, Field(ge=0)] = Field(
        1.0, description="The term's share of the loss; {start: 1, end: 0} changes as it trains."
    )

    @property
    def counts(self) -> bool:
        """Whether the term ever bears on the loss."""
        return self.weight != 0 and self.weight != RampSpec(start=0, end=0)


class SoftenedSpec(LossSpec):
    """A term of softened outputs."""

    temperature: RampSpec | Annotated[float, Field(gt=0)] = Field(
        2.0, description="Softens teacher and student alike; {start: 4, end: 1} anneals."
    )

    @model_validator(mode="after")
    def _above_zero(self) -> "SoftenedSpec":
        if isinstance(self.temperature, RampSpec) and not (
            self.temperature.start and self.temperature.end
        ):
            raise ValueError("has a temperature that begins or ends at 0: it is above 0")
        return self


class LayersSpec(LossSpec):
    """A term that compares layers of the student with layers of the teacher."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="For each layer of the student the teacher's to compare it with, counted from "
        "0. Left out: the layer it was cut from, or evenly spread ones.",
    )


class CrossEntropySpec(LossSpec):
    """Cross-entropy with the data's own (hard) labels."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class SoftTargetsSpec(SoftenedSpec):
    """KL divergence to the teacher's softened outputs, times the temperature squared."""

    kind: Literal["soft_targets"] = "soft_targets"
    standardise: bool = Field(
        False, description="Bring each text's logits to mean 0 and standard deviation 1 before."
    )


class LogitsMseSpec(LossSpec):
    """Mean squared difference of the logits."""

    kind: Literal["logits_mse"] = "logits_mse"


class DecoupledSpec(SoftenedSpec):
    """Soft targets in two parts: the label against the others, and the others among themselves."""

    kind: Literal["decoupled"] = "decoupled"
    target: float = Field(1.0, ge=0, description="Weight of the label against the others.")
    others: float = Field(2.0, ge=0, description="Weight of the others among themselves.")


class CorrelationSpec(SoftenedSpec):
    """How little the softened outputs correlate, over classes and over texts (DIST)."""

    kind: Literal["correlation"] = "correlation"
    classes: float = Field(1.0, ge=0, description="Weight of the order of a text's classes.")
    texts: float = Field(1.0, ge=0, description="Weight of the order of a class's texts.")


class HiddenMseSpec(LayersSpec):
    """Mean squared difference of hidden states; projected where widths differ."""

    kind: Literal["hidden_mse"] = "hidden_mse"


class HiddenCosineSpec(LayersSpec):
    """1 minus the cosine of hidden states; projected where widths differ."""

    kind: Literal["hidden_cosine"] = "hidden_cosine"


class AttentionSpec(LayersSpec):
    """KL divergence of what each token looks at."""

    kind: Literal["attention"] = "attention"


class RelationsSpec(LossSpec):
    """KL divergence of how queries, keys and values of tokens relate to one another (MiniLMv2)."""

    kind: Literal["relations"] = "relations"
    layer: int | None = Field(
        None, ge=0, description="The teacher's layer, for the student's last. Left out: its last."
    )
    heads: int = Field(12, ge=1, description="Relation heads; divides both widths.")


class EmbeddingsSpec(LossSpec):
    """Mean squared difference of the embeddings' output; projected where widths differ."""

    kind: Literal["embeddings"] = "embeddings"


class ContrastiveSpec(LossSpec):
    """Finding a text's teacher representation among those of its batch."""

    kind: Literal["contrastive"] = "contrastive"
    temperature: float = Field(0.1, gt=0, description="Divides the cosines.")


Loss = Annotated[
    CrossEntropySpec
    | SoftTargetsSpec
    | LogitsMseSpec
    | DecoupledSpec
    | CorrelationSpec
    | HiddenMseSpec
    | HiddenCosineSpec
    | AttentionSpec
    | RelationsSpec
    | EmbeddingsSpec
    | ContrastiveSpec,
    Field(discriminator="kind"),
]
LOSS_KINDS: tuple[str, ...] = tuple(
    spec.model_fields["kind"].default for spec in get_args(get_args(Loss)[0])
)


class DistillSpec(FitSpec):
    """How the student learns from the teacher."""

    losses: tuple[Loss, ...] = Field(
        (SoftTargetsSpec(weight=0.5), CrossEntropySpec(weight=0.5)),
        min_length=1,
        description="The terms of the loss; their weighted sum is what is minimised.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="Of the student's training. Left out: the recipe's."
    )

    @model_validator(mode="after")
    def _some_weight(self) -> "DistillSpec":
        if not any(loss.counts for loss in self.losses):
            raise ValueError("has losses whose weights are all 0: nothing would be learnt")
        return self


class EvaluateSpec(Spec):
    """What is measured."""

    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("validation", "test"), min_length=1, description="The splits to measure on."
    )
    out_of_scope: str | None = Field(
        None, description="The label that stands for 'none of the others', reported apart."
    )
    refuse_at_most: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="The share of in-scope validation texts that the out-of-scope threshold, "
        "chosen there, may refuse.",
    )
    batch_size: int = Field(64, ge=1, description="Texts in a batch of the accuracy measurement.")
    latency_texts: int = Field(
        100, ge=1, description="Texts to time one at a time, after a warm-up."
    )


class CardSpec(Spec):
    """What the model card says beside the figures."""

    license: str = Field("apache-2.0", description="The student's licence, a Hub identifier.")
    language: str | tuple[str, ...] = Field("en", description="Language code, or several.")
    dataset_name: str | None = Field(
        None, description="The data set's name on the card. Left out: its id or folder name."
    )


class Recipe(Spec):
    """A distillation, whole: data, teacher, student, training, evaluation, card."""

    name: Annotated[str, AfterValidator(_a_name_anywhere)] = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="The run's name, and its folder's: letters, digits, '.', '_' and '-'.",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seeds everything that is random.")
    data: DataSpec
    teacher: TeacherSpec
    student: StudentSpec = StudentSpec()
    distill: DistillSpec = DistillSpec()
    baseline: bool = Field(
        False,
        description="Whether to train the same student on the labels alone as well, with the same "
        "budget: is distilling better than plain fine-tuning?",
    )
    evaluate: EvaluateSpec = EvaluateSpec()
    card: CardSpec = CardSpec()
    report_to: tuple[str, ...] = Field(
        ("tensorboard",),
        description="Where training is shown live, as transformers calls it: tensorboard (in the "
        "run's logs), wandb, mlflow, … [] is nowhere.",
    )


class CutSpec(Spec):
    """What `kd init-student` needs of a recipe."""

    student: StudentSpec = StudentSpec()
    data: DataSpec | None = None


class MeasureSpec(Spec):
    """What `kd evaluate` needs of a recipe."""

    seed: int = Field(42, ge=0, lt=2**32)
    data: DataSpec
    evaluate: EvaluateSpec = EvaluateSpec()
