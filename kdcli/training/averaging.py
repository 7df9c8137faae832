"""The mean of the weights of a training's last steps."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

_FILE = "average.safetensors"
# Weights change little from one step to the next: a mean of every fifth costs a fifth. Where so
# few would be left that the mean says little, more of them count.
_EVERY = 5
_AT_LEAST = 5


class Average(TrainerCallback):
    """Averages a model's weights over the last steps, and puts the mean in their place.

    The mean lies in a flatter part of the loss than its members, and does better on new texts.
    Izmailov et al. 2018, Averaging Weights Leads to Wider Optima (arXiv:1803.05407), with a
    schedule that falls; for language models Lu et al. 2022 (arXiv:2212.05956).

    Args:
        model: Whose trained weights they are.
        share: Of the steps, those up to the last one, two at least; None averages nothing.
        checkpoint: Where a run that goes on finds the mean so far.
    """

    def __init__(self, model: nn.Module, share: float | None, checkpoint: Path | None) -> None:
        self.share = share
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.mean: dict[str, Tensor] = {}
        self.count = 0
        if share is not None and checkpoint is not None and (checkpoint / _FILE).exists():
            self.mean = load_file(checkpoint / _FILE)
            self.count = int(self.mean.pop("count"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take a step's weights into the mean, where it is one of the last."""
        if self.share is None:
            return
        last = max(2, math.ceil(self.share * state.max_steps))
        every = max(1, min(_EVERY, last // _AT_LEAST))
        left = state.max_steps - state.global_step
        if left >= last or left % every:
            return
        self.count += 1
        for name, weight in self.weights.items():
            now = weight.detach()
            if name not in self.mean:
                self.mean[name] = now.clone()
            else:
                self.mean[name].lerp_(now.to(self.mean[name].device), 1 / self.count)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the mean so far beside a checkpoint, before it is sealed."""
        if self.mean and args.should_save:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            save_file({**self.mean, "count": torch.tensor(self.count)}, folder / _FILE)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the mean for its weights, where there is one."""
        last = self.put()
        try:
            yield
        finally:
            for name, weight in last.items():
                self.weights[name].data.copy_(weight)

    def put(self) -> dict[str, Tensor]:
        """Give the model the mean for its weights, where there is one.

        Returns:
            Those that it had.
        """
        last = {name: self.weights[name].detach().clone() for name in self.mean}
        for name, weight in self.mean.items():
            self.weights[name].data.copy_(weight)
        return last
