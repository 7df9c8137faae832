"""Select the teacher layers that the student keeps."""

from collections.abc import Callable

from kdcli.errors import ModelError
from kdcli.models.layer_stacks import LayerIndices, LayerStack
from kdcli.recipe.student import StudentConfig

DEFAULT_DROP_EVERY = 2


def select_layers(
    student_config: StudentConfig,
    stacks: tuple[LayerStack, ...],
    select_measured: Callable[[LayerStack, int], LayerIndices] | None = None,
) -> tuple[LayerIndices, ...]:
    """Select the layers of each stack that the student keeps.

    Args:
        student_config: Its keys `keep`, `layers` or `drop_every`. Without any of them every second
            layer is dropped, or none where the width or the vocabulary is reduced. A decoder
            follows the encoder's keys unless it has its own.
        stacks: The teacher's stacks.
        select_measured: Selects a number of layers of a stack, for `strategy: measured`. Without
            it, evenly spaced layers stand in for the measured ones.

    Raises:
        ModelError: The teacher has fewer layers.
    """
    if len(stacks) == 1 and (
        student_config.keep_decoder_layers or student_config.num_decoder_layers
    ):
        key = "keep_decoder_layers" if student_config.keep_decoder_layers else "num_decoder_layers"
        raise ModelError(f"student.{key}: the teacher has one stack of layers, and no decoder.")
    every, depth = student_config.drop_every, max(stack.depth for stack in stacks)
    if every is not None and every > depth:
        raise ModelError(
            f"student.drop_every is {every}, and the teacher has {depth} layers: none is dropped.",
            f"Name a number up to {depth}.",
        )
    return tuple(_select_stack_layers(student_config, stack, select_measured) for stack in stacks)


def _select_stack_layers(
    student_config: StudentConfig,
    stack: LayerStack,
    select_measured: Callable[[LayerStack, int], LayerIndices] | None,
) -> LayerIndices:
    has_decoder_keys = stack.part == "decoder" and (
        student_config.keep_decoder_layers or student_config.num_decoder_layers
    )
    keep_key, count_key = (
        ("keep_decoder_layers", "num_decoder_layers")
        if has_decoder_keys
        else ("keep_layers", "num_hidden_layers")
    )
    keep, count = getattr(student_config, keep_key), getattr(student_config, count_key)
    where = f"the teacher{chr(39) + 's ' + stack.part if stack.part else ''} has {stack.depth}"
    if keep is not None:
        if keep[-1] >= stack.depth:
            beyond = next(layer for layer in keep if layer >= stack.depth)
            raise ModelError(
                f"student.{keep_key} names layer {beyond}, and {where} layers, "
                f"0 to {stack.depth - 1}."
            )
        return tuple(keep)
    if count is not None:
        if count > stack.depth:
            raise ModelError(f"student.{count_key} is {count}, and {where} layers.")
        if (
            student_config.strategy == "importance"
            and select_measured is not None
            and not stack.shared
        ):
            return select_measured(stack, count)
        return _SELECTION_STRATEGIES.get(student_config.strategy, evenly_spaced_layers)(
            count, stack.depth
        )
    every = student_config.drop_every or (
        stack.depth + 1 if student_config.reduces_width_or_vocab else DEFAULT_DROP_EVERY
    )
    return tuple(layer for layer in range(stack.depth) if layer % every != every - 1)


def evenly_spaced_layers(count: int, depth: int) -> LayerIndices:
    """Select the first layer, the last, and others at even distances between them.

    6 of 12 layers are 0, 2, 4, 7, 9 and 11, the layers that DistilBERT was initialised from (Sanh
    et al. 2019, arXiv:1910.01108).
    """
    if count == 1:
        return (0,)
    # Integer arithmetic, so that halves always round up.
    return tuple((2 * i * (depth - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def uniform_layer_mapping(student_depth: int, teacher_depth: int) -> LayerIndices:
    """Map each student layer to a teacher layer at even distances, the last to the last.

    Args:
        student_depth: Number of student layers; more than `teacher_depth` repeats teacher layers.
        teacher_depth: Number of teacher layers.
    """
    return tuple(
        max(round((i + 1) * teacher_depth / student_depth) - 1, 0) for i in range(student_depth)
    )


def _first_layers(count: int, depth: int) -> LayerIndices:
    return tuple(range(count))


def _last_layers(count: int, depth: int) -> LayerIndices:
    return tuple(range(depth - count, depth))


_SELECTION_STRATEGIES = {
    "spaced": evenly_spaced_layers,
    "first": _first_layers,
    "last": _last_layers,
}
