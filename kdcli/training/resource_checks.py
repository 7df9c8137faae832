"""Checks for disk space and memory before a training starts."""

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
    """Check that the disk has room for the checkpoints and the finished model.

    Raises:
        ResourceError: It hasn't.
    """
    model_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    # A checkpoint has weights and Adam's two moments; two are kept while a third is written.
    resources.require_disk(3 * 3 * model_bytes + model_bytes, checkpoints_folder, "training")


def require_memory_for_training(
    model: "PreTrainedModel", train_dataset: "Dataset", config: TrainingConfig
) -> None:
    """Check that there is memory for the training, on a machine without an accelerator.

    Counts gradients, Adam's two moments and the activations that the backward pass keeps:
    s b h (34 + 5 a s / h) bytes for each layer at 16 bits, of which 2 and 1 are masks (Korthikanti
    et al. 2022, equation 2). Measured on MiniLM this is two thirds of the true need: a training
    that is refused would have run out of memory.

    Raises:
        ResourceError: There is too little.
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
        "Use a smaller batch_size (and more gradient_accumulation), or a smaller model.",
    )
