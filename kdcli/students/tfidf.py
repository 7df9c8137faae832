"""Student family `tfidf`: weighted n-grams of words and characters, and a linear layer.

scikit-learn's `TfidfVectorizer` weighs the n-grams; the layer minimises the recipe's losses, on
labels, on the teacher's logits, or both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from kdcli.errors import RecipeError
from kdcli.recipe.student_family_plugin import (
    FamilyTrainingData,
    StudentFamilyContext,
    StudentFamilyPlugin,
    refuse_gradient_keys,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdcli.data.dataset_splits import DatasetSplits
    from kdcli.recipe.schema import Recipe

# Texts that `estimate` counts n-grams in.
_ESTIMATE_TEXTS = 5_000


class TfidfFamily(StudentFamilyPlugin):
    """TF-IDF of word and character n-grams, and a linear layer."""

    trains_itself: ClassVar[bool] = True

    word_ngrams: int = Field(2, ge=0, description="Words in the longest n-gram; 0 for none.")
    char_ngrams: int = Field(
        5,
        ge=0,
        description="Characters in the longest n-gram, which starts at 2 and stays within a word; "
        "0 for none.",
    )
    min_df: int = Field(2, ge=1, description="Training texts that an n-gram has to occur in.")
    max_features: int = Field(
        50_000, ge=1, description="Most n-grams of each kind to keep, the most frequent ones."
    )
    C: float | None = Field(
        None,
        gt=0,
        description="Inverse of the penalty on the weights, as in scikit-learn. Default: the best "
        "of 1, 10 and 100 on validation.",
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="Number format of the saved weights."
    )

    def validate_recipe(self, recipe: "Recipe", dataset_splits: "DatasetSplits") -> None:
        """Check that the recipe can train such a student.

        Raises:
            RecipeError: The texts are pairs, or a key doesn't go with this family.
        """
        from kdcli.data import column_access

        if not self._ngrams:
            raise RecipeError("student.options: word_ngrams and char_ngrams leave no n-grams.")
        if len(column_access.text_column_names(dataset_splits.splits["train"])) > 1:
            raise RecipeError(
                "student.family: tfidf counts the n-grams of a text, and can't compare the two "
                "texts of a pair.",
                "Take a student with attention: remove student.family.",
            )
        unfit = {
            "data.max_length": recipe.data.max_length,
            "data.truncation": recipe.data.truncation,
            "student.model": recipe.student.model,
        }
        for key, value in unfit.items():
            if value is not None:
                raise RecipeError(
                    f"{key} doesn't go with student.family: tfidf, which reads whole texts and "
                    "starts from no model.",
                    f"Remove {key}.",
                )
        refuse_gradient_keys(recipe, dataset_splits.task, "tfidf")

    def build(self, context: StudentFamilyContext) -> "tuple[PreTrainedModel, None]":
        """Choose the n-grams by the training texts, and weigh them."""
        return self._build(context.texts, len(context.label_names)), None

    def estimate(self, context: StudentFamilyContext) -> "tuple[PreTrainedModel, None]":
        """Build the student from the first 5,000 texts: all of them may have more n-grams."""
        return self._build(context.texts[:_ESTIMATE_TEXTS], len(context.label_names)), None

    def describe(self, model: "PreTrainedModel", name: str) -> str:
        """Describe features and layer."""
        kinds = {"word": "words", "char_wb": "characters"}
        named = " and ".join(f"{kinds[kind]}" for kind in self._ngrams)
        return (
            f"It weighs {model.config.vocab_size:,} n-grams of {named} by TF-IDF, and a linear "
            "layer gives the labels."
        )

    def save_untrained(self, model: "PreTrainedModel", tokenizer: None, folder: Path) -> None:
        """Write the n-grams and their weights."""
        from kdcli.students import tfidf_folder

        tfidf_folder.write_features(model.features, model.config, folder)

    def train(self, data: FamilyTrainingData) -> dict[str, Any]:
        """Fit the linear layer, and write the student's folder; see the base class."""
        from kdcli.data import column_access
        from kdcli.students import linear_fit, tfidf_folder

        features = tfidf_folder.read_features(data.untrained)
        matrices = {
            split: features.transform([text for (text,) in column_access.get_text_tuples(rows)])
            for split, rows in data.splits.items()
        }
        fit = linear_fit.choose_linear_layer(
            matrices["train"],
            data.training_loss,
            data.num_outputs,
            data.validation_score,
            matrices["validation"],
            inverse_regularizations=(
                linear_fit.INVERSE_REGULARIZATIONS if self.C is None else (self.C,)
            ),
            advance=data.advance,
        )
        if data.output is not None:
            tfidf_folder.write_tfidf_student(features, fit, data.untrained, data.output, self.dtype)
        return {
            "parameters": int(features.idf.size + fit.weight.size + fit.bias.size),
            "C": fit.inverse_regularization,
            "history": [
                data.history_row(
                    fit.steps,
                    {split: fit.logits(matrix) for split, matrix in matrices.items()},
                )
            ],
        }

    @property
    def _ngrams(self) -> dict[str, tuple[int, int]]:
        """Shortest and longest n-gram, by scikit-learn's name of the kind."""
        limits = {"word": (1, self.word_ngrams), "char_wb": (2, self.char_ngrams)}
        return {kind: ends for kind, ends in limits.items() if ends[1] >= ends[0]}

    def _build(self, texts: Sequence[str], num_labels: int) -> "PreTrainedModel":
        import torch

        from kdcli.models.tfidf_model import TfidfConfig, TfidfForSequenceClassification
        from kdcli.students import tfidf_folder

        features = tfidf_folder.fit_features(texts, self._ngrams, self.min_df, self.max_features)
        config = TfidfConfig(vocab_size=features.idf.size, num_labels=num_labels)
        with torch.device("meta"):
            model = TfidfForSequenceClassification(config)
        model.features = features
        return model
