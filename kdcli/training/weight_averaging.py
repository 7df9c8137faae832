"""Averaging of the weights over a training's last steps."""

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
# Weights change little from step to step: every fifth is enough, but at least five are averaged.
_STEPS_BETWEEN_SAMPLES = 5
_MIN_SAMPLES = 5


class WeightAveragingCallback(TrainerCallback):
    """Average a model's weights over the last steps, and give the model the average.

    The average lies in a flatter region of the loss, and generalises better.
    Izmailov et al. 2018, Averaging Weights Leads to Wider Optima (arXiv:1803.05407), with a
    falling learning rate; for language models Lu et al. 2022 (arXiv:2212.05956).

    Args:
        model: The model in training.
        last_fraction: Share of the steps, up to the last one, to average over; at least two steps.
            None averages nothing.
        checkpoint: The checkpoint that training resumes from, with the average so far.
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
        """Add the step's weights to the average, if it is one of the last."""
        if self.last_fraction is None:
            return
        averaged_steps = max(2, math.ceil(self.last_fraction * state.max_steps))
        every = max(1, min(_STEPS_BETWEEN_SAMPLES, averaged_steps // _MIN_SAMPLES))
        steps_left = state.max_steps - state.global_step
        if steps_left >= averaged_steps or steps_left % every:
            return
        self.sample_count += 1
        for name, weight in self.trained_parameters.items():
            now = weight.detach()
            if name not in self.average:
                self.average[name] = now.clone()
            else:
                self.average[name].lerp_(now.to(self.average[name].device), 1 / self.sample_count)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the average so far in the checkpoint, before it is marked complete."""
        if self.average and args.should_save:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            save_file(
                {**self.average, "count": torch.tensor(self.sample_count)}, folder / _AVERAGE_FILE
            )

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the model has the average as its weights, if there is one."""
        last_weights = self.apply_average()
        try:
            yield
        finally:
            for name, weight in last_weights.items():
                self.trained_parameters[name].data.copy_(weight)

    def apply_average(self) -> dict[str, Tensor]:
        """Replace the model's weights by the average, if there is one.

        Returns:
            The replaced weights, by name.
        """
        last_weights = {
            name: self.trained_parameters[name].detach().clone() for name in self.average
        }
        for name, weight in self.average.items():
            self.trained_parameters[name].data.copy_(weight)
        return last_weights
