"""Losses, one class each, found by their `kind`.

A built-in loss is a subclass of `Loss` in a module of this package. To add one, add a module: it is
found by itself. Packages offer losses as entry points of the group `kdcli.losses`, and
`kind: package.module:Name` names a class of your own.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from kdcli import plugins, tasks
from kdcli.losses.base import LinearRamp as LinearRamp
from kdcli.losses.base import Loss as Loss

_PLUGIN_GROUP = "kdcli.losses"
_SUPPORT_MODULES = ("base", "combined", "tensor_ops")


def _discover_losses() -> Iterator[type[Loss]]:
    for info in pkgutil.iter_modules(__path__):
        if info.name in _SUPPORT_MODULES:
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            defined_here = getattr(value, "__module__", None) == module.__name__
            if defined_here and isinstance(value, type) and issubclass(value, Loss):
                yield value


BUILT_IN_LOSSES: dict[str, type[Loss]] = {
    loss.model_fields["kind"].default: loss for loss in _discover_losses()
}
# `kdcli.losses.SoftTargets` and its like.
globals().update({loss.__name__: loss for loss in BUILT_IN_LOSSES.values()})


def loss_kinds() -> tuple[str, ...]:
    """List the kinds of losses: the built-in ones, then those of installed packages."""
    return (*BUILT_IN_LOSSES, *plugins.plugin_names(_PLUGIN_GROUP))


def _validate_loss(value: Any, validate_built_in: ValidatorFunctionWrapHandler) -> Any:
    """Validate a loss whose class is found by its kind, built-in or not."""
    if isinstance(value, Loss):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind in BUILT_IN_LOSSES:
        return validate_built_in(value)
    loss = plugins.validate_by_kind(_PLUGIN_GROUP, kind, Loss, value)
    return validate_built_in(value) if loss is None else loss


if TYPE_CHECKING:
    AnyLoss = Loss

    def __getattr__(name: str) -> Any: ...
else:
    AnyLoss = Annotated[
        Union[tuple(BUILT_IN_LOSSES.values())],  # noqa: UP007
        Field(discriminator="kind"),
        WrapValidator(_validate_loss),
        SerializeAsAny(),
    ]


def label_only_losses(task: tasks.Task) -> tuple[Loss, ...]:
    """Return the losses of a training on the labels alone."""
    from kdcli.losses.cross_entropy import CrossEntropy
    from kdcli.losses.labels_mse import LabelsMSE

    return (LabelsMSE(),) if task is tasks.REGRESSION else (CrossEntropy(),)


def default_losses(task: tasks.Task) -> tuple[Loss, ...]:
    """Return the losses of a recipe that names none: teacher and labels, half each."""
    from kdcli.losses.cross_entropy import CrossEntropy
    from kdcli.losses.labels_mse import LabelsMSE
    from kdcli.losses.logits_mse import LogitsMSE
    from kdcli.losses.soft_targets import SoftTargets

    if task is tasks.REGRESSION:
        return (LogitsMSE(weight=0.5), LabelsMSE(weight=0.5))
    return (SoftTargets(weight=0.5), CrossEntropy(weight=0.5))
