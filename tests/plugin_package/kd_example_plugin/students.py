"""A student family of another package."""

from typing import TYPE_CHECKING

from pydantic import Field

from kdcli.recipe.student_family_plugin import StudentFamilyContext, StudentFamilyPlugin

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class WordBert(StudentFamilyPlugin):
    """A small BERT from random weights, whose tokens are the words of the training texts."""

    width: int = Field(32, ge=2, multiple_of=2, description="Width of the hidden states.")
    layers: int = Field(1, ge=1, description="Number of layers.")

    def build(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Build the model and its tokenizer."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

        words = sorted({word for text in context.texts for word in text.split()})
        vocab = {word: i for i, word in enumerate(dict.fromkeys(["[PAD]", "[UNK]", *words]))}
        words_to_ids = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
        words_to_ids.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words_to_ids, pad_token="[PAD]", unk_token="[UNK]"
        )
        config = BertConfig(
            vocab_size=len(vocab),
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=2,
            intermediate_size=2 * self.width,
            max_position_embeddings=128,
            num_labels=len(context.label_names),
        )
        return BertForSequenceClassification(config), tokenizer
