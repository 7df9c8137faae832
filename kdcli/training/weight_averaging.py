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

_AVERAGE_FILE = "average.safetensors"
# Weights change little from one step to the next: a mean of every fifth costs a fifth. Where so
# few would be left that the mean says little, more of them count.
_STEPS_BETWEEN_SAMPLES = 5
_MIN_SAMPLES = 5


class WeightAveragingCallback(TrainerCallback):
    """Averages a model's weights over the last steps, and puts the mean in their place.

    The mean lies in a flatter part of the loss than its members, and does better on new texts.
    Izmailov et al. 2018, Averaging Weights Leads to Wider Optima (arXiv:1803.05407), with a
    schedule that falls; for language models Lu et al. 2022 (arXiv:2212.05956).

    Args:
        model: Whose trained weights they are.
        last_fraction: Of the steps, those up to the last one, two at least; None averages nothing.
        checkpoint: Where a run that goes on finds the mean so far.
    """

    def __init__(
        self, model: nn.Module, last_fraction: float | None, checkpoint: Path | None
    ) -> None:
        self.last_fraction = last_fraction
        self.trained_parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {}
        self.sample_count = 0
        if (
            last_fraction is not None
            and checkpoint is not None
            and (checkpoint / _AVERAGE_FILE).exists()
        ):
            self.average = load_file(checkpoint / _AVERAGE_FILE)
            self.sample_count = int(self.average.pop("count"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take a step's weights into the mean, where it is one of the last."""
        if self.last_fraction is None:
            return
        last = max(2, math.ceil(self.last_fraction * state.max_steps))
        every = max(1, min(_STEPS_BETWEEN_SAMPLES, last // _MIN_SAMPLES))
        left = state.max_steps - state.global_step
        if left >= last or left % every:
            return
        self.sample_count += 1
        for name, weight in self.trained_parameters.items():
            now = weight.detach()
            if name not in self.average:
                self.average[name] = now.clone()
            else:
                self.average[name].lerp_(now.to(self.average[name].device), 1 / self.sample_count)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the mean so far beside a checkpoint, before it is sealed."""
        if self.average and args.should_save:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            save_file(
                {**self.average, "count": torch.tensor(self.sample_count)}, folder / _AVERAGE_FILE
            )

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the model has the mean for its weights, where there is one."""
        last = self.apply_average()
        try:
            yield
        finally:
            for name, weight in last.items():
                self.trained_parameters[name].data.copy_(weight)

    def apply_average(self) -> dict[str, Tensor]:
        """Give the model the mean for its weights, where there is one.

        Returns:
            Those that it had.
        """
        last = {name: self.trained_parameters[name].detach().clone() for name in self.average}
        for name, weight in self.average.items():
            self.trained_parameters[name].data.copy_(weight)
        return last
