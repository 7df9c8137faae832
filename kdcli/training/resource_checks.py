"""Whether a fit has room, on the disk and in memory, before hours are spent."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdcli import distributed, resources
from kdcli.data.tokenization.tokenize import token_lengths
from kdcli.recipe.training import TrainingConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def require_disk_for_checkpoints(model: "PreTrainedModel", checkpoints_folder: Path) -> None:
    """Before hours are spent: a full disk in the middle would end the run."""
    one = sum(p.numel() * p.element_size() for p in model.parameters())
    # Weights and Adam's two moments: two checkpoints are kept while a third is written, and the
    # finished model comes beside them.
    resources.require_disk(3 * 3 * one + one, checkpoints_folder, "training")


def require_memory_for_training(
    model: "PreTrainedModel", train_dataset: "Dataset", config: TrainingConfig
) -> None:
    """Before hours are spent: the system would end the run without a word.

    The weights are in memory already; gradients and Adam's two moments come beside them, and what
    the backward pass keeps of a batch: by Korthikanti et al. (2022), equation 2, for each layer
    s b h (34 + 5 a s / h) bytes at 16 bits, of which 2 and 1 are masks. Of MiniLM's true need that
    is two thirds: who is refused would not have got through.
    """
    if torch.accelerator.is_available():
        return
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    layers, units, heads = (
        getattr(model.config, name, 0)
        for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    texts, tokens = (
        -(-config.batch_size // distributed.world_size()),
        int(token_lengths(train_dataset).max()),
    )
    resources.require_memory(
        3 * weights + layers * texts * tokens * (66 * units + 9 * heads * tokens),
        "Training",
        "Take a smaller batch_size (and more gradient_accumulation), or a smaller model.",
    )
