"""Self-attention relation distillation (MiniLMv2)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdcli.losses.base import LayerMapping, Loss, ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor


class AttentionRelations(Loss):
    """KL divergence of how queries, keys and values of tokens relate to one another (MiniLMv2)."""

    needs = frozenset({"relations"})

    kind: Literal["attention_relations"] = "attention_relations"
    teacher_layer: int | None = Field(
        None, ge=0, description="The teacher's layer, for the student's last. Left out: its last."
    )
    relation_heads: int = Field(12, ge=1, description="Relation heads; divides both widths.")

    def compared_layers(self, mapping: LayerMapping) -> list[tuple[int, int]]:
        """Pair the last layer with `teacher_layer`; `relation_heads` has to divide the widths."""
        for owner, width in (
            ("student", mapping.student_width),
            ("teacher", mapping.teacher_width),
        ):
            if width % self.relation_heads:
                raise ValueError(
                    f"relation_heads is {self.relation_heads}, which doesn't divide the {owner}'s "
                    f"width of {width}."
                )
        last = mapping.teacher_depth - 1
        student_last = len(mapping.teacher_layer_indices) - 1
        return [(student_last, last if self.teacher_layer is None else self.teacher_layer)]

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute the mean of `qkv_relation_kl` over queries, keys and values."""
        from kdcli.losses.tensor_ops import mean_over_layers

        parts = student_outputs.qkv
        return mean_over_layers(
            qkv_relation_kl,
            [parts[part][0] for part in parts],
            [teacher_outputs.qkv[part][0] for part in parts],
            student_outputs.attention_mask,
            self.relation_heads,
        )


def qkv_relation_kl(
    qkv: "Tensor", teacher_qkv: "Tensor", attention_mask: "Tensor", num_relation_heads: int
) -> "Tensor":
    """Return the KL divergence between the relations of tokens in teacher and student.

    The relation of two tokens is the softmax of the scaled product of their queries, keys or
    values, so the widths may differ. Wang et al. 2021 (MiniLMv2, arXiv:2012.15828), section 3.

    Args:
        qkv: The student's queries, keys or values, (batch, tokens, width).
        teacher_qkv: The teacher's, (batch, tokens, its width).
        attention_mask: (batch, tokens).
        num_relation_heads: Number of relation heads that each width is split into; divides both.
    """
    from kdcli.losses.tensor_ops import masked_kl

    student, teacher = (
        _log_relations(x, attention_mask, num_relation_heads) for x in (qkv, teacher_qkv)
    )
    return masked_kl(student, teacher, attention_mask)


def _log_relations(qkv: "Tensor", attention_mask: "Tensor", num_relation_heads: int) -> "Tensor":
    """The logarithms of the relations, (batch, heads, tokens, tokens)."""
    import torch

    batch, tokens, width = qkv.shape
    split = qkv.view(batch, tokens, num_relation_heads, width // num_relation_heads).transpose(1, 2)
    products = split @ split.transpose(-1, -2) / (width // num_relation_heads) ** 0.5
    # Padding is no token to relate to.
    padding = attention_mask[:, None, None, :] == 0
    return products.masked_fill(padding, torch.finfo(products.dtype).min).log_softmax(-1)
