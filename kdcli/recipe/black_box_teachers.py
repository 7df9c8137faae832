"""The part `teacher`, where only its answers are to be had: a black box.

Its student starts from a pretrained model (`student.model`), since there is nothing to cut.
"""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from kdcli.recipe import endpoint_urls
from kdcli.recipe.base import FrozenConfig, Revision, SourceReference

TeacherOutputType = Literal["probabilities", "logits"]


def _validate_function_reference(reference: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", reference):
        raise ValueError("is no module:function")
    return reference


def _validate_hypothesis_template(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("has no place for the label, or several: write {} where it goes")
    return template


class BlackBoxTeacherConfig(FrozenConfig):
    """What all of them have."""

    # The key that names a model or a file, if one does.
    source_key: ClassVar[str | None] = None

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        raise NotImplementedError


class PrecomputedTeacherConfig(BlackBoxTeacherConfig):
    """Scores from a file, whoever gave them: a row for each text, a column for each label."""

    source_key = "file"
    kind: Literal["precomputed"] = "precomputed"
    file: SourceReference = Field(
        min_length=1,
        description="csv, tsv, jsonl, json, parquet or arrow, with the columns of the text, called "
        "as in the data, and one for each label, called as it is.",
    )
    output_type: TeacherOutputType = Field("probabilities", description="What the columns hold.")

    @property
    def title(self) -> str:
        """See `BlackBoxSpec`."""
        return f"scores from {self.file}"


class LabelDescriptionTeacherConfig(BlackBoxTeacherConfig):
    """A teacher that is told what the labels mean."""

    descriptions: Mapping[str, Annotated[str, Field(min_length=1)]] = Field(
        {}, description="What labels mean, by label, in words. Left out: the label itself."
    )


class ZeroShotTeacherConfig(LabelDescriptionTeacherConfig):
    """A model of natural language inference: does the text entail that it is about the label?"""

    source_key = "model"
    kind: Literal["zero_shot"] = "zero_shot"
    model: SourceReference = Field(
        min_length=1, description="A Hub id, a folder, or package:NAME/PATH, fine-tuned on NLI."
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    hypothesis_template: Annotated[str, AfterValidator(_validate_hypothesis_template)] = Field(
        "This text is about {}.", description="The hypothesis; {} is the label's description."
    )

    @property
    def title(self) -> str:
        """See `BlackBoxSpec`."""
        return f"{self.model}, asked what a text entails"


class EmbeddingTeacherConfig(BlackBoxTeacherConfig):
    """Embeddings of texts, and a simple classifier of them that is fitted to the training texts."""

    source_key = "model"
    kind: Literal["embeddings"] = "embeddings"
    model: SourceReference = Field(
        min_length=1,
        description="A Hub id, a folder, or package:NAME/PATH of a sentence-transformers model, or "
        "of any encoder: the mean of its tokens is taken.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    head: Literal["nearest_centroid", "logistic_regression"] = Field(
        "logistic_regression",
        description="'nearest_centroid' compares with the mean of each label's texts; 'logistic_regression' is a "
        "logistic regression.",
    )

    @property
    def title(self) -> str:
        """See `BlackBoxSpec`."""
        head = (
            "the nearest label's mean"
            if self.head == "nearest_centroid"
            else "a logistic regression"
        )
        return f"embeddings of {self.model}, and {head}"


class EndpointTeacherConfig(LabelDescriptionTeacherConfig):
    """A language model behind an API that speaks OpenAI's chat completions."""

    kind: Literal["endpoint"] = "endpoint"
    url: Annotated[str, AfterValidator(endpoint_urls.validate_endpoint_url)] = Field(
        description="The API's address up to its version: https://api.example.com/v1. Unless it is "
        "on this machine, its host has to be allowed: --allow-endpoint HOST."
    )
    model: str = Field(min_length=1, description="What the API calls the model.")
    instructions: str = Field(
        "Classify the text.", description="What the model is asked, before the list of labels."
    )
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        "OPENAI_API_KEY",
        description="The environment variable that holds the API's key, never the key itself; null "
        "where the API wants none. Another one than the provider's own has to be allowed: "
        "--allow-endpoint HOST=VARIABLE.",
    )
    votes: int = Field(
        5,
        ge=1,
        le=100,
        description="How often a text is asked about where the API gives no log-probabilities.",
    )
    concurrency: int = Field(4, ge=1, le=256, description="Requests at a time.")
    requests_per_minute: int | None = Field(
        None, ge=1, description="At most so many. Left out: as fast as it answers."
    )
    retries: int = Field(
        6, ge=0, description="How often a request is tried again: 429, 5xx, no answer."
    )
    timeout: float = Field(
        60, gt=0, description="Seconds within which an answer has to be there as a whole."
    )
    price_per_million_tokens: (
        tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None
    ) = Field(None, description="What a million tokens cost, of prompts and of answers.")
    max_cost: float | None = Field(
        None, gt=0, description="What all the answers of a run may cost, in the price's currency."
    )

    @model_validator(mode="after")
    def _check_price_for_max_cost(self) -> "EndpointTeacherConfig":
        if self.max_cost is not None and self.price_per_million_tokens is None:
            raise ValueError("has max_cost, but no price_per_million_tokens to compute the cost")
        return self

    @property
    def title(self) -> str:
        """See `BlackBoxSpec`."""
        return f"{self.model} behind an API"


class FunctionTeacherConfig(BlackBoxTeacherConfig):
    """A Python function; it is imported only where the command says --allow-code."""

    kind: Literal["function"] = "function"
    function: Annotated[str, AfterValidator(_validate_function_reference)] = Field(
        description="module:name of a function of a list of texts (or pairs) and the list of "
        "labels, that gives an array of (texts, labels)."
    )
    output_type: TeacherOutputType = Field("probabilities", description="What it gives.")

    @property
    def title(self) -> str:
        """See `BlackBoxSpec`."""
        return f"the function {self.function}"


AnyBlackBoxTeacherConfig = (
    PrecomputedTeacherConfig
    | ZeroShotTeacherConfig
    | EmbeddingTeacherConfig
    | EndpointTeacherConfig
    | FunctionTeacherConfig
)
BLACK_BOX_TEACHER_CONFIGS: tuple[type[BlackBoxTeacherConfig], ...] = (
    PrecomputedTeacherConfig,
    ZeroShotTeacherConfig,
    EmbeddingTeacherConfig,
    EndpointTeacherConfig,
    FunctionTeacherConfig,
)
