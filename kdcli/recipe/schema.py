"""The recipe: frozen, strict, every key with a default or a reason to be required.

`kd recipe schema` prints this as JSON Schema; the descriptions are what an editor
shows.
"""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Architecture = Literal["auto", "same", "distilbert"]


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

    dataset: str = Field(
        min_length=1, description="A Hub id, a file (csv, tsv, jsonl, parquet) or a folder."
    )
    config: str | None = Field(None, description="The Hub data set's configuration.")
    revision: str | None = Field(None, description="The Hub data set's revision: pin a commit.")
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
    batch_size: int = Field(48, ge=1, description="Texts in a batch, on each process.")
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

    model: str = Field(
        min_length=1,
        description="A Hub id, a folder, or package:NAME/PATH for weights in a Python package.",
    )
    revision: str | None = Field(None, description="The Hub model's revision: pin a commit.")
    fine_tune: FitSpec | None = Field(
        None, description="How to fine-tune it first. Left out: it is a finished classifier."
    )


class StudentSpec(Spec):
    """How the student is made: cut out of the teacher, or a smaller pretrained model."""

    drop_every: int | None = Field(
        None, ge=2, description="Leave out every nth layer: 2, the default, keeps layers 0, 2, 4, …"
    )
    keep: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="The teacher's layers to keep, counted from 0."
    )
    model: str | None = Field(
        None, min_length=1, description="A smaller pretrained model to start from instead."
    )
    revision: str | None = Field(None, description="The Hub model's revision: pin a commit.")
    architecture: Architecture = Field(
        "auto",
        description="'distilbert' drops token types and pooler; 'same' keeps the teacher's; "
        "'auto' is distilbert for a BERT teacher and the same for any other.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "StudentSpec":
        named = [k for k in ("drop_every", "keep", "model") if getattr(self, k) is not None]
        if len(named) > 1:
            raise ValueError(
                f"takes one of drop_every, keep and model, not {' and '.join(named)}; "
                "set the others to null"
            )
        if self.model is not None and self.architecture == "distilbert":
            raise ValueError("takes architecture: distilbert only where it is cut from the teacher")
        if self.keep is not None and list(self.keep) != sorted(set(self.keep)):
            raise ValueError(f"keeps layers in rising order, each once, not {list(self.keep)}")
        return self


class LossSpec(Spec):
    """What every loss term has."""

    weight: float = Field(1.0, ge=0, description="The term's share of the loss.")


class CrossEntropySpec(LossSpec):
    """Cross-entropy with the data's own (hard) labels."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class SoftTargetsSpec(LossSpec):
    """KL divergence to the teacher's softened outputs, times the temperature squared."""

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: float = Field(2.0, gt=0, description="Softens teacher and student alike.")


Loss = Annotated[CrossEntropySpec | SoftTargetsSpec, Field(discriminator="kind")]
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

    @model_validator(mode="after")
    def _some_weight(self) -> "DistillSpec":
        if not any(loss.weight for loss in self.losses):
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

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="The run's name, and its folder's: letters, digits, '.', '_' and '-'.",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seeds everything that is random.")
    data: DataSpec
    teacher: TeacherSpec
    student: StudentSpec = StudentSpec()
    distill: DistillSpec = DistillSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    card: CardSpec = CardSpec()


class CutSpec(Spec):
    """What `kd init-student` needs of a recipe."""

    student: StudentSpec = StudentSpec()


class MeasureSpec(Spec):
    """What `kd evaluate` needs of a recipe."""

    seed: int = Field(42, ge=0, lt=2**32)
    data: DataSpec
    evaluate: EvaluateSpec = EvaluateSpec()
