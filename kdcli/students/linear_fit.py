"""Fit a linear layer to fixed features, by full-batch L-BFGS on the losses of a recipe.

With the cross-entropy of labels this is scikit-learn's `LogisticRegression`: the mean loss plus
|W|²/(2·C·n) for n texts; the bias is not penalised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Values of C to choose from on validation.
INVERSE_REGULARIZATIONS = (1.0, 10.0, 100.0)
_MAX_ITERATIONS = 200
_GRADIENT_TOLERANCE = 1e-5

LossOfLogits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear layer.

    Attributes:
        weight: float32, (features, outputs).
        bias: float32, (outputs,).
        inverse_regularization: C, as in scikit-learn.
        steps: Evaluations of loss and gradient.
    """

    weight: np.ndarray
    bias: np.ndarray
    inverse_regularization: float
    steps: int

    def logits(self, features: Any) -> np.ndarray:
        """Return the outputs for features, (texts, features): an array or a scipy matrix."""
        return np.asarray(features @ self.weight + self.bias, dtype=np.float32)


def fit_linear_layer(
    features: Any,
    loss: LossOfLogits,
    num_outputs: int,
    inverse_regularization: float,
    *,
    start: LinearFit | None = None,
    max_iterations: int = _MAX_ITERATIONS,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> LinearFit:
    """Minimise a mean loss over texts, with an L2 penalty on the weights.

    Args:
        features: (texts, features), an array or a sparse matrix of scipy.
        loss: Returns the mean loss of the logits of all texts, (texts, outputs), as a scalar.
        num_outputs: Number of outputs.
        inverse_regularization: C; larger values penalise less.
        start: Where to start from. Default: zeros.
        max_iterations: Upper limit of L-BFGS's iterations.
        advance: Called after each evaluation.
    """
    rows, width = features.shape
    features = features.astype(np.float32)
    transposed = features.T.tocsr() if hasattr(features, "tocsr") else features.T
    penalty = 1 / (inverse_regularization * rows)
    parameters = torch.zeros(width + 1, num_outputs)
    if start is not None:
        parameters[:width] = torch.from_numpy(start.weight)
        parameters[width] = torch.from_numpy(start.bias)
    parameters.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    steps = 0

    def evaluate_loss() -> torch.Tensor:
        nonlocal steps
        steps += 1
        weight, bias = parameters.detach()[:width], parameters.detach()[width]
        logits = torch.from_numpy(np.asarray(features @ weight.numpy())) + bias
        logits.requires_grad_()
        value = loss(logits)
        (gradient,) = torch.autograd.grad(value, logits)
        parameters.grad = torch.empty_like(parameters)
        parameters.grad[:width] = torch.from_numpy(np.asarray(transposed @ gradient.numpy()))
        parameters.grad[:width] += penalty * weight
        parameters.grad[width] = gradient.sum(0)
        advance(min(steps, max_iterations), max_iterations)
        return value.detach() + penalty / 2 * weight.square().sum()

    optimizer.step(evaluate_loss)
    fitted = parameters.detach().numpy()
    return LinearFit(fitted[:width].copy(), fitted[width].copy(), inverse_regularization, steps)


def choose_linear_layer(
    features: Any,
    loss: LossOfLogits,
    num_outputs: int,
    validation_score: Callable[[np.ndarray], float],
    validation_features: Any,
    *,
    inverse_regularizations: Sequence[float] = INVERSE_REGULARIZATIONS,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> LinearFit:
    """Fit a layer for each C, each starting from the last, and keep the best on validation.

    Args:
        features: See `fit_linear_layer`.
        loss: See `fit_linear_layer`.
        num_outputs: Number of outputs.
        validation_score: Rates logits of the validation texts; more is better. The smaller C wins a
            tie.
        validation_features: As `features`, of the validation texts.
        inverse_regularizations: The values of C, rising.
        advance: See `fit_linear_layer`.
    """
    fits: list[LinearFit] = []
    for value in inverse_regularizations:
        start, finished = fits[-1] if fits else None, len(fits)

        def advance_all(done: int, total: int, finished: int = finished) -> None:
            advance(finished * total + done, len(inverse_regularizations) * total)

        fits.append(
            fit_linear_layer(features, loss, num_outputs, value, start=start, advance=advance_all)
        )
    scores = [validation_score(fit.logits(validation_features)) for fit in fits]
    return fits[int(np.argmax(scores))]
