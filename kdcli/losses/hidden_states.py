"""Losses that compare hidden states, projected to the teacher's width where the widths differ."""

from typing import TYPE_CHECKING, Literal

from kdcli.losses.base import LayerwiseLoss, Loss, ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor


def hidden_state_mse(
    hidden_states: "Tensor", teacher_hidden_states: "Tensor", attention_mask: "Tensor"
) -> "Tensor":
    """Return the mean squared difference of hidden states, over tokens and width.

    Jiao et al. 2020 (TinyBERT, arXiv:1909.10351), equations 8 and 9.

    Args:
        hidden_states: The student's, projected to the teacher's width, (batch, tokens, width).
        teacher_hidden_states: The teacher's, (batch, tokens, width).
        attention_mask: (batch, tokens).
    """
    from kdcli.losses.tensor_ops import masked_token_mean

    return masked_token_mean(
        (hidden_states - teacher_hidden_states).square().mean(-1), attention_mask
    )


def hidden_state_cosine_distance(
    hidden_states: "Tensor", teacher_hidden_states: "Tensor", attention_mask: "Tensor"
) -> "Tensor":
    """Return 1 minus the cosine between the two models' states of a token, the mean over tokens.

    Sanh et al. 2019 (DistilBERT, arXiv:1910.01108), section 3, the term L_cos.

    Args:
        hidden_states: The student's, projected to the teacher's width, (batch, tokens, width).
        teacher_hidden_states: The teacher's, (batch, tokens, width).
        attention_mask: (batch, tokens).
    """
    from kdcli.losses.tensor_ops import cosine, masked_token_mean

    return masked_token_mean(1 - cosine(hidden_states, teacher_hidden_states), attention_mask)


class HiddenMSE(LayerwiseLoss):
    """Mean squared difference of hidden states; projected where widths differ."""

    needs = frozenset({"hidden_states"})
    layer_loss = hidden_state_mse

    kind: Literal["hidden_mse"] = "hidden_mse"


class HiddenCosine(LayerwiseLoss):
    """1 minus the cosine of hidden states; projected where widths differ."""

    needs = frozenset({"hidden_states"})
    layer_loss = hidden_state_cosine_distance

    kind: Literal["hidden_cosine"] = "hidden_cosine"


class EmbeddingMSE(Loss):
    """Mean squared difference of the embeddings' output; projected where widths differ."""

    needs = frozenset({"hidden_states"})
    compares = "embeddings"

    kind: Literal["embedding_mse"] = "embedding_mse"

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute `hidden_state_mse` of the embeddings' output."""
        assert student_outputs.attention_mask is not None
        return hidden_state_mse(
            student_outputs.hidden_states[0],
            teacher_outputs.hidden_states[0],
            student_outputs.attention_mask,
        )
