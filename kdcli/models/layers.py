"""Which of a model's layers go into the student."""

from kdcli.errors import ModelError
from kdcli.recipe.schema import StudentSpec

DROP_EVERY = 2


def choose(spec: StudentSpec, depth: int) -> tuple[int, ...]:
    """The layers to keep, counted from 0.

    Args:
        spec: Says `drop_every` or `keep`; where it says neither, every second layer goes.
        depth: How many layers the teacher has.

    Raises:
        ModelError: A layer is asked for that the teacher hasn't got.
    """
    if spec.keep is not None:
        beyond = [layer for layer in spec.keep if layer >= depth]
        if beyond:
            raise ModelError(
                f"student.keep names layer {beyond[0]}, and the teacher has {depth} layers, "
                f"0 to {depth - 1}."
            )
        return spec.keep
    every = spec.drop_every or DROP_EVERY
    return tuple(layer for layer in range(depth) if layer % every != every - 1)
