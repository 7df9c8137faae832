"""The part `teacher` of black boxes: teachers of which only the answers are known.

Their student starts from a pretrained model (`student.model`), since there is none to cut.
"""

import re
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from kdcli.recipe import endpoint_urls
from kdcli.recipe.base import FrozenConfig, Revision, SourceReference
from kdcli.recipe.data import DataConfig

TeacherOutputType = Literal["probabilities", "logits"]
# Of a split and a progress callback: its logits, (texts, labels).
Predictor = Callable[[Any, Callable[[int, int], None]], Any]


def _validate_function_reference(reference: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", reference):
        raise ValueError("is not of the form module:function")
    return reference


def _validate_hypothesis_template(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("must have one place for the label: write {} where it goes")
    return template


class BlackBoxTeacher(FrozenConfig):
    """A teacher that gives answers alone: its keys in a recipe, and how it answers.

    A subclass declares its `kind` (a `Literal` with a default), its keys as fields, and the methods
    below. Packages offer such classes as entry points of the group `kdcli.teachers`;
    `kind: package.module:Name` names a class of the user's own.

    A method's `context` is a `kdcli.teachers.black_box_context.BlackBoxContext`.

    Attributes:
        source_key: The key that names a model ("model") or a file of data ("file"), if one does:
            a changed model or file is noticed, and local paths stay off the model card.
    """

    source_key: ClassVar[Literal["model", "file"] | None] = None

    if TYPE_CHECKING:
        kind: str

    @property
    def title(self) -> str:
        """The teacher in a few words, for the model card and notes."""
        return self.kind

    def check(self, context: Any) -> None:
        """Check before the run that the teacher can answer.

        Raises:
            KdError: It can't.
        """

    def fit(self, context: Any) -> None:
        """Fit to the training texts, and write the result to `context.teacher_folder`."""

    def create_predictor(self, context: Any) -> Predictor:
        """Load what answering needs: a model, a file, a connection.

        Returns:
            A function of a split (a `datasets.Dataset` with the column `text`, and `text_pair` for
            pairs) and a progress callback `(done, total)`. It returns the logits, float32,
            (texts, labels), in the order of `context.dataset_splits.label_names`; see
            `kdcli.teachers.logit_conversion.convert_to_logits` for probabilities.
        """
        raise NotImplementedError

    def label_names(self, data_config: DataConfig) -> tuple[str, ...] | None:
        """Return the labels for data that has none; None where the teacher needs them given."""
        return None


class _BuiltInTeacher(BlackBoxTeacher):
    """A teacher whose methods are functions of a module in `kdcli.teachers`.

    The module is imported when it is needed: reading a recipe imports none of its libraries.
    """

    module: ClassVar[str]
    has_fit: ClassVar[bool] = False

    def check(self, context: Any) -> None:
        """See `BlackBoxTeacher.check`."""
        self._call("check_teacher", context)

    def fit(self, context: Any) -> None:
        """See `BlackBoxTeacher.fit`."""
        if self.has_fit:
            self._call("fit_teacher", context)

    def create_predictor(self, context: Any) -> Predictor:
        """See `BlackBoxTeacher.create_predictor`."""
        predictor: Predictor = self._call("create_predictor", context)
        return predictor

    def _call(self, function: str, argument: Any) -> Any:
        return resolve_name(f"kdcli.teachers.{self.module}:{function}")(self, argument)


class PrecomputedTeacherConfig(_BuiltInTeacher):
    """Outputs of any model, read from a file: a row per text, a column per label."""

    module = "precomputed"
    source_key = "file"
    kind: Literal["precomputed"] = "precomputed"
    file: SourceReference = Field(
        min_length=1,
        description="A csv, tsv, jsonl, json, parquet or arrow file. Its columns are the text's, "
        "named as in the data, and one per label, named after the label.",
    )
    output_type: TeacherOutputType = Field(
        "probabilities", description="Values in the label columns."
    )

    @property
    def title(self) -> str:
        """See `BlackBoxTeacher.title`."""
        return f"scores from {self.file}"

    def label_names(self, data_config: DataConfig) -> tuple[str, ...]:
        """Return the file's columns that are not texts."""
        names: tuple[str, ...] = self._call("label_columns_of_scores_file", data_config)
        return names


class LabelDescriptionTeacherConfig(_BuiltInTeacher):
    """A teacher that is given descriptions of the labels."""

    descriptions: Mapping[str, Annotated[str, Field(min_length=1)]] = Field(
        {}, description="Description of each label, by label. Default: the label itself."
    )

    def label_names(self, data_config: DataConfig) -> tuple[str, ...]:
        """Return the labels that have a description."""
        return tuple(self.descriptions)


class ZeroShotTeacherConfig(LabelDescriptionTeacherConfig):
    """A natural language inference model: does the text entail that it is about the label?"""

    module = "zero_shot"
    source_key = "model"
    kind: Literal["zero_shot"] = "zero_shot"
    model: SourceReference = Field(
        min_length=1,
        description="A model fine-tuned on NLI: a Hub id, a folder, or package:NAME/PATH.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    hypothesis_template: Annotated[str, AfterValidator(_validate_hypothesis_template)] = Field(
        "This text is about {}.", description="The hypothesis; {} is the label's description."
    )

    @property
    def title(self) -> str:
        """See `BlackBoxTeacher.title`."""
        return f"zero-shot classification by {self.model}"


class EmbeddingTeacherConfig(_BuiltInTeacher):
    """Text embeddings, and a simple classifier of them that is fitted to the training texts."""

    module = "embedding_classifier"
    has_fit = True
    source_key = "model"
    kind: Literal["embeddings"] = "embeddings"
    model: SourceReference = Field(
        min_length=1,
        description="A sentence-transformers model, or any encoder, whose tokens are averaged: a "
        "Hub id, a folder, or package:NAME/PATH.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    head: Literal["nearest_centroid", "logistic_regression"] = Field(
        "logistic_regression",
        description="'nearest_centroid' compares with the mean of each label's texts; "
        "'logistic_regression' is scikit-learn's.",
    )

    @property
    def title(self) -> str:
        """See `BlackBoxTeacher.title`."""
        head = (
            "the nearest label's mean"
            if self.head == "nearest_centroid"
            else "a logistic regression"
        )
        return f"embeddings of {self.model}, and {head}"


class LLMTeacherConfig(LabelDescriptionTeacherConfig):
    """A large language model behind an API for OpenAI's chat completions."""

    module = "llm"
    kind: Literal["endpoint"] = "endpoint"
    url: Annotated[str, AfterValidator(endpoint_urls.validate_endpoint_url)] = Field(
        description="The API's address up to its version: https://api.example.com/v1. A host other "
        "than this machine has to be allowed: --allow-endpoint HOST."
    )
    model: str = Field(min_length=1, description="The model's name in the API.")
    instructions: str = Field(
        "Classify the text.", description="Instructions that precede the list of labels."
    )
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        "OPENAI_API_KEY",
        description="The environment variable that holds the API key, never the key itself; null "
        "if the API needs none. A variable other than the provider's own has to be allowed: "
        "--allow-endpoint HOST=VARIABLE.",
    )
    votes: int = Field(
        5,
        ge=1,
        le=100,
        description="Requests per text if the API returns no log-probabilities.",
    )
    concurrency: int = Field(4, ge=1, le=256, description="Requests in flight at a time.")
    requests_per_minute: int | None = Field(None, ge=1, description="Rate limit. Default: none.")
    retries: int = Field(6, ge=0, description="Retries of a request after 429, 5xx or no response.")
    timeout: float = Field(
        60, gt=0, description="Seconds until the complete response has to be there."
    )
    price_per_million_tokens: (
        tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None
    ) = Field(
        None, description="Prices of a million prompt tokens and a million completion tokens."
    )
    max_cost: float | None = Field(
        None, gt=0, description="Budget of a run for all responses, in the prices' currency."
    )

    @model_validator(mode="after")
    def _check_price_for_max_cost(self) -> "LLMTeacherConfig":
        if self.max_cost is not None and self.price_per_million_tokens is None:
            raise ValueError("has max_cost, but no price_per_million_tokens to compute the cost")
        return self

    @property
    def title(self) -> str:
        """See `BlackBoxTeacher.title`."""
        return f"{self.model} behind an API"


class FunctionTeacherConfig(_BuiltInTeacher):
    """A Python function; kd imports it only with --allow-code."""

    module = "python_function"
    kind: Literal["function"] = "function"
    function: Annotated[str, AfterValidator(_validate_function_reference)] = Field(
        description="module:name of a function that takes a list of texts (or pairs) and the list "
        "of labels, and returns an array, (texts, labels)."
    )
    output_type: TeacherOutputType = Field(
        "probabilities", description="Values that the function returns."
    )

    @property
    def title(self) -> str:
        """See `BlackBoxTeacher.title`."""
        return f"the function {self.function}"


BLACK_BOX_TEACHERS: tuple[type[BlackBoxTeacher], ...] = (
    PrecomputedTeacherConfig,
    ZeroShotTeacherConfig,
    EmbeddingTeacherConfig,
    LLMTeacherConfig,
    FunctionTeacherConfig,
)
