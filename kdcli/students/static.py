"""Student family `static`: a table of token vectors, distilled from an encoder, and a small head.

Tulkens and van Dongen 2024 (Model2Vec): each token goes through the encoder alone; the vectors are
reduced by PCA and weighted by how rare the token is (SIF, Arora et al. 2017). Table and head are
then trained as any student.
"""

import io
import logging
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdcli.errors import RecipeError, UsageError
from kdcli.recipe.student_family_plugin import StudentFamilyContext, StudentFamilyPlugin

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kdcli.data.dataset_splits import DatasetSplits
    from kdcli.models.static_model import StaticConfig
    from kdcli.recipe.schema import Recipe

_DEFAULT_VOCAB_SIZE = 16_000
# As in model2vec.
_SIF_COEFFICIENT = 1e-4


class StaticFamily(StudentFamilyPlugin):
    """Token vectors of an encoder, their mean, and a head."""

    width: int = Field(256, ge=1, description="Width of a token's vector.")
    head_width: int = Field(
        512, ge=0, description="Neurons of the head's hidden layer; 0 for a linear head."
    )
    trim_vocab: bool | Annotated[int, Field(ge=1)] = Field(
        False,
        description="Number of vocabulary entries to keep, those of the training texts first; "
        "true: 16,000.",
    )
    dtype: Literal["float32", "float16", "int8"] = Field(
        "float32", description="Number format of the saved vectors."
    )
    token_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of a text's tokens to leave out in each step."
    )
    normalize: bool = Field(False, description="Scale each text's mean vector to the same length.")

    def validate_recipe(self, recipe: "Recipe", dataset_splits: "DatasetSplits") -> None:
        """Check that the recipe can train such a student.

        Raises:
            UsageError: model2vec is not installed.
            RecipeError: The texts are pairs, or a key doesn't go with this family.
        """
        from kdcli.data import column_access
        from kdcli.losses.base import INTERNAL_OUTPUTS, required_teacher_outputs

        if find_spec("model2vec") is None or find_spec("skeletoken") is None:
            raise UsageError(
                "student.family: static needs model2vec, which is not installed.",
                "Install it: pip install 'kdcli[static]'.",
            )
        if len(column_access.text_column_names(dataset_splits.splits["train"])) > 1:
            raise RecipeError(
                "student.family: static averages the tokens of a text, and can't compare the two "
                "texts of a pair.",
                "Take a student with attention: remove student.family.",
            )
        if recipe.data.truncation not in (None, "head"):
            raise RecipeError(
                f"data.truncation: {recipe.data.truncation} doesn't go with student.family: "
                "static, which reads a text from its start.",
                "Remove data.truncation: without data.max_length, the student reads all tokens.",
            )
        for loss in recipe.distill.losses_for_task(dataset_splits.task):
            if required_teacher_outputs([loss]) & INTERNAL_OUTPUTS:
                raise RecipeError(
                    f"distill.losses: {loss.kind} compares layers, and student.family: static has "
                    "none.",
                    "Use losses of logits, such as soft_targets.",
                )

    def build(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Pass each token through the encoder, and put a head with random weights on top."""
        import numpy as np
        import torch
        from model2vec.distill import distill_from_model

        from kdcli.models import model_io, vocab_trimming
        from kdcli.models.device import inference_device
        from kdcli.models.static_model import StaticForSequenceClassification

        folder = self._encoder_folder(context)
        classifier = model_io.load_classifier(folder, ("0", "1"), allow_new_head=True)
        tokenizer = model_io.load_tokenizer(folder)
        if self.trim_vocab:
            size = _DEFAULT_VOCAB_SIZE if self.trim_vocab is True else self.trim_vocab
            texts = context.texts
            kept = vocab_trimming.select_token_ids(
                tokenizer, classifier.config, texts, min(size, len(tokenizer))
            )
            classifier, tokenizer = vocab_trimming.trim_vocabulary(
                classifier, tokenizer, texts, kept
            )
        tokenizer.backend_tokenizer.no_truncation()
        # model2vec draws a progress bar of its own, and warns of what is as it should be.
        logging.getLogger("skeletoken").setLevel(logging.ERROR)
        with redirect_stderr(io.StringIO()):
            static = distill_from_model(
                classifier.base_model,
                tokenizer,
                pca_dims=self.width,
                sif_coefficient=_SIF_COEFFICIENT,
                quantize_to="float32",
                device=str(inference_device()),
            )
        wrapped = _wrap_tokenizer(static.tokenizer)
        model = StaticForSequenceClassification(
            self._config(context, static.embedding.shape, wrapped)
        )
        vectors = torch.from_numpy(static.embedding.astype(np.float32))
        with torch.no_grad():
            model.embeddings.weight.copy_(vectors / vectors.std())
        return model, wrapped

    def estimate(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Build the student without weights; its vocabulary may be smaller in the end."""
        import torch

        from kdcli.models import model_io
        from kdcli.models.static_model import StaticForSequenceClassification

        folder = self._encoder_folder(context)
        encoder_config, tokenizer = model_io.load_config(folder), model_io.load_tokenizer(folder)
        if not tokenizer.is_fast:
            raise RecipeError(
                "student.family: static needs a fast tokenizer (tokenizer.json), and that of "
                f"{folder} is written in Python.",
                "Name another encoder: student.model.",
            )
        width = min(self.width, encoder_config.hidden_size)
        config = self._config(context, (len(tokenizer), width), tokenizer)
        with torch.device("meta"):
            return StaticForSequenceClassification(config), tokenizer

    def describe(self, model: "PreTrainedModel", name: str) -> str:
        """Describe table and head."""
        config = model.config
        kind = "a hidden layer" if config.head_width else "a linear layer"
        return (
            f"It is a table of {config.vocab_size:,} token vectors of width {config.hidden_size}, "
            f"distilled from an encoder as in Model2Vec, whose mean goes through {kind} to the "
            "labels."
        )

    def save(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
    ) -> None:
        """Write a folder that plain model2vec loads, with the head beside the vectors."""
        from kdcli import distributed
        from kdcli.students.static_folder import write_static_student

        if distributed.is_main_process():
            write_static_student(model, tokenizer, folder, self.dtype)

    def _encoder_folder(self, context: StudentFamilyContext) -> Path:
        if context.encoder is None:
            raise RecipeError(
                "student.family: static needs an encoder, and the teacher gives predictions alone.",
                "Name one: student.model.",
            )
        return context.encoder

    def _config(
        self,
        context: StudentFamilyContext,
        shape: tuple[int, ...],
        tokenizer: "PreTrainedTokenizerBase",
    ) -> "StaticConfig":
        from kdcli.models.static_model import StaticConfig

        return StaticConfig(
            vocab_size=shape[0],
            hidden_size=shape[1],
            head_width=self.head_width,
            normalize=self.normalize,
            token_dropout=self.token_dropout,
            pad_token_id=tokenizer.pad_token_id,
            unk_token_id=tokenizer.unk_token_id,
            num_labels=len(context.label_names),
        )


def _wrap_tokenizer(tokenizer: "Tokenizer") -> "PreTrainedTokenizerBase":
    """Wrap model2vec's tokenizer, which adds no special tokens, for transformers."""
    from transformers import PreTrainedTokenizerFast

    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocab = tokenizer.get_vocab()
    unknown = getattr(tokenizer.model, "unk_token", None)
    special = {"unk_token": unknown} if unknown in vocab else {}
    usual = [token for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>") if token in vocab]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        # Padding is masked, so that any token will do.
        pad_token=usual[0] if usual else min(vocab, key=lambda token: vocab[token]),
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
