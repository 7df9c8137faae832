"""Student family `head`: an encoder left as it is, and a linear layer on its text embeddings.

The embeddings are computed once; the layer minimises the recipe's losses, on labels, on the
teacher's logits, or both.
"""

from collections.abc import Callable
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
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kdcli.data.dataset_splits import DatasetSplits
    from kdcli.models.encoder_head import EncoderHeadConfig
    from kdcli.recipe.data import TruncationMode
    from kdcli.recipe.schema import Recipe

_BATCH_SIZE = 64


class HeadFamily(StudentFamilyPlugin):
    """A frozen encoder and a linear layer."""

    trains_itself: ClassVar[bool] = True

    pooling: Literal["auto", "mean", "cls"] = Field(
        "auto",
        description="Embedding of a text: the mean of its tokens' hidden states, or that of the "
        "first token. auto: as the encoder's sentence-transformers folder says, else mean.",
    )
    normalize: bool = Field(True, description="Scale embeddings to length 1.")
    C: float | None = Field(
        None,
        gt=0,
        description="Inverse of the penalty on the weights, as in scikit-learn. Default: the best "
        "of 1, 10 and 100 on validation.",
    )

    def validate_recipe(self, recipe: "Recipe", dataset_splits: "DatasetSplits") -> None:
        """Check that the recipe can train such a student.

        Raises:
            RecipeError: A key doesn't go with this family.
        """
        refuse_gradient_keys(recipe, dataset_splits.task, "head")

    def build(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Load the encoder, and put an untrained layer on top."""
        import torch

        from kdcli.models import model_io
        from kdcli.models.encoder_head import EncoderHeadForSequenceClassification

        config, folder = self._config(context)
        encoder = model_io.load_classifier(folder, ("0", "1"), allow_new_head=True).base_model
        with torch.device("meta"):
            model = EncoderHeadForSequenceClassification(config)
        model.encoder = encoder
        model.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        return model.requires_grad_(False), model_io.load_tokenizer(folder)

    def estimate(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Build the student without weights."""
        import torch

        from kdcli.models import model_io
        from kdcli.models.encoder_head import EncoderHeadForSequenceClassification

        config, folder = self._config(context)
        with torch.device("meta"):
            return EncoderHeadForSequenceClassification(config), model_io.load_tokenizer(folder)

    def describe(self, model: "PreTrainedModel", name: str) -> str:
        """Describe encoder and layer."""
        encoder = model.config.text_config
        return (
            f"It is a frozen {encoder.model_type} of {encoder.num_hidden_layers} layers, whose "
            f"{'first token' if model.config.pooling == 'cls' else 'mean token'} goes through a "
            "linear layer to the labels."
        )

    def train(self, data: FamilyTrainingData) -> dict[str, Any]:
        """Compute the embeddings, fit the layer, and write the student's folder."""
        import torch

        from kdcli.models import model_io
        from kdcli.students import linear_fit

        model = model_io.load_classifier(data.untrained)
        tokenizer = model_io.load_tokenizer(data.untrained)
        embeddings = {
            split: embed_texts(
                model,
                tokenizer,
                rows,
                max_length=data.max_length,
                truncation=data.truncation,
                advance=data.advance,
            )
            for split, rows in data.splits.items()
        }
        fit = linear_fit.choose_linear_layer(
            embeddings["train"],
            data.training_loss,
            data.num_outputs,
            data.validation_score,
            embeddings["validation"],
            inverse_regularizations=(
                linear_fit.INVERSE_REGULARIZATIONS if self.C is None else (self.C,)
            ),
            advance=data.advance,
        )
        with torch.no_grad():
            model.classifier.weight.copy_(torch.from_numpy(fit.weight.T.copy()))
            model.classifier.bias.copy_(torch.from_numpy(fit.bias))
        if data.output is not None:
            model_io.save_model(model, tokenizer, data.output)
        logits = {split: fit.logits(matrix) for split, matrix in embeddings.items()}
        return {
            "parameters": model_io.count_parameters(model),
            "C": fit.inverse_regularization,
            "history": [data.history_row(fit.steps, logits)],
        }

    def _config(self, context: StudentFamilyContext) -> "tuple[EncoderHeadConfig, Path]":
        from kdcli.models import model_io
        from kdcli.models.encoder_head import EncoderHeadConfig, find_pooling

        folder = context.encoder
        if folder is None:
            raise RecipeError(
                "student.family: head needs an encoder, and the teacher gives predictions alone.",
                "Name one: student.model.",
            )
        encoder = model_io.load_config(folder)
        if encoder.is_encoder_decoder or isinstance(encoder, EncoderHeadConfig):
            raise RecipeError(
                f"student.family: head needs an encoder, and a {encoder.model_type} is none.",
                "Name one: student.model.",
            )
        config = EncoderHeadConfig(
            text_config=encoder,
            pooling=find_pooling(folder) if self.pooling == "auto" else self.pooling,
            normalize=self.normalize,
            num_labels=len(context.label_names),
        )
        return config, folder


def embed_texts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: "Dataset",
    *,
    max_length: int | None,
    truncation: "TruncationMode | None",
    advance: Callable[[int, int], None],
) -> "np.ndarray":
    """Compute the embeddings of texts, float32, (texts, width); of windows, their mean.

    Args:
        model: An `EncoderHeadForSequenceClassification`.
        tokenizer: Its tokenizer.
        rows: The texts.
        max_length: Tokens to keep of a text. None: as many as the model reads.
        truncation: The tokens to keep of a longer text.
        advance: Called after each batch with the rows done and the number of rows.
    """
    from kdcli.data.tokenization.tokenize import tokenize_dataset
    from kdcli.data.tokenization.windows import average_windows
    from kdcli.models.batch_inference import predict_batches
    from kdcli.models.padding_invariance import create_collator
    from kdcli.models.sequence_length import get_max_length

    limit = get_max_length(model, tokenizer, max_length)
    tokenized = tokenize_dataset(rows, tokenizer, limit, truncation)
    (embeddings,) = predict_batches(
        model,
        create_collator(model, tokenizer),
        tokenized,
        _BATCH_SIZE,
        forward=lambda batch: [model.embed(**batch)],
        advance=advance,
    )
    return average_windows(embeddings, tokenized)
