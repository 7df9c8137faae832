"""Which of a model's layers go into the student."""

from kdcli.errors import ModelError
from kdcli.recipe.schema import StudentSpec


def choose(spec: StudentSpec, depth: int) -> tuple[int, ...]:
    """The layers to keep, counted from 0.

    Args:
        spec: Says `drop_every` or `keep`; neither keeps every layer.
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
    if spec.drop_every is None:
        return tuple(range(depth))
    return tuple(i for i in range(depth) if i % spec.drop_every != spec.drop_every - 1)
