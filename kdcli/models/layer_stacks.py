"""A model's layers, and which of them go into the student."""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from kdcli.errors import ModelError
from kdcli.recipe.student import StudentConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LayerIndices: TypeAlias = tuple[int, ...]  # in rising order, counted from 0

DEFAULT_DROP_EVERY = 2
LAYER_PARAMETER_PATTERN = re.compile(r"(?P<stack>.*?)\.(?P<layer>\d+)(?P<rest>\..*)")
# What a configuration calls the number of layers, where an encoder and a decoder have their own.
_NUM_LAYERS_KEYS = {
    "encoder": ("encoder_layers", "num_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
# Layers for what isn't text.
_NON_TEXT_MODULES = re.compile("vision|audio")
# Architectures that go through few layers many times, and what says how many they are.
_NUM_SHARED_LAYERS_KEY = {"albert": "num_hidden_groups"}


@dataclass(frozen=True)
class LayerStack:
    """The layers that a model sends a text through, one after the other.

    Attributes:
        path: Their list's name in the model, such as `bert.encoder.layer`.
        part: `encoder` or `decoder` where the model has both, otherwise empty.
        config_key: What the configuration calls their number.
        depth: How many a text goes through.
        shared: Whether they are one and the same, as in ALBERT.
    """

    path: str
    part: str
    config_key: str
    depth: int
    shared: bool = False


def find_layer_stacks(model: "PreTrainedModel") -> tuple[LayerStack, ...]:
    """The model's stacks, known by the numbers in its parameters' names.

    Args:
        model: A classifier; its weights aren't looked at, and needn't be there.

    Returns:
        One; of an encoder-decoder the encoder's and the decoder's.

    Raises:
        ModelError: Its names and its configuration number no such layers.
    """
    config = get_text_config(model.config)
    counted: dict[str, set[int]] = defaultdict(set)
    for match in filter(None, map(LAYER_PARAMETER_PATTERN.match, model.state_dict())):
        counted[match["stack"]].add(int(match["layer"]))
    parts = _NUM_LAYERS_KEYS if config.is_encoder_decoder else {"": ("num_hidden_layers",)}
    return tuple(_find_layer_stack(config, part, keys, counted) for part, keys in parts.items())


def get_text_config(config: Any) -> Any:
    """The part of a configuration that speaks of the text model: mostly the whole of it."""
    try:
        return config.get_text_config()
    except ValueError:
        return config


def passes_per_layer(config: Any) -> int:
    """How many times a token goes through each layer: once, but in ALBERT."""
    text = get_text_config(config)
    groups = getattr(text, _NUM_SHARED_LAYERS_KEY.get(text.model_type, ""), None)
    return text.num_hidden_layers // groups if groups else 1


def _find_layer_stack(
    config: Any, part: str, keys: tuple[str, ...], counted: dict[str, set[int]]
) -> LayerStack:
    key = next((key for key in keys if isinstance(getattr(config, key, None), int)), None)
    if key is None:
        raise _unsupported_layers_error(
            config, "its configuration doesn't say how many " + f"{part} layers it has".lstrip()
        )
    depth = getattr(config, key)
    try:
        setattr(config, key, depth)
    except NotImplementedError:
        raise _unsupported_layers_error(
            config, "the number of its layers follows from other settings"
        ) from None
    shared = config.model_type in _NUM_SHARED_LAYERS_KEY
    number = getattr(config, _NUM_SHARED_LAYERS_KEY[config.model_type]) if shared else depth
    if shared and number > 1:
        raise _unsupported_layers_error(config, f"its {depth} layers share the weights of {number}")
    paths = [
        path
        for path, found in counted.items()
        if found == set(range(number))
        and (not part or part in path.split("."))
        and not _NON_TEXT_MODULES.search(path)
    ]
    if len(paths) != 1:
        layers = f"{part} layers".strip()
        raise _unsupported_layers_error(
            config, f"its parameters' names number no single stack of {depth} {layers}"
        )
    return LayerStack(paths[0], part, key, depth, shared)


def _unsupported_layers_error(config: Any, reason: str) -> ModelError:
    return ModelError(
        f"Layers can't be left out of a model of type {config.model_type}: {reason}.",
        "Name a smaller pretrained model instead: student.model.",
    )


def select_layers(
    student_config: StudentConfig,
    stacks: tuple[LayerStack, ...],
    select_measured: Callable[[LayerStack, int], LayerIndices] | None = None,
) -> tuple[LayerIndices, ...]:
    """The layers to keep of each stack.

    Args:
        student_config: Says `keep`, `layers` or `drop_every`; where it says none, every second layer goes,
            or none where something else is to go.
            A decoder is cut as its encoder is, where the spec doesn't speak of it.
        stacks: The teacher's.
        select_measured: Chooses so many layers of a stack by measurement, for the strategy of that name;
            without it, evenly spaced layers take the place of the measured ones.

    Raises:
        ModelError: A layer is asked for that the teacher hasn't got.
    """
    if len(stacks) == 1 and (student_config.decoder_keep or student_config.decoder_layers):
        key = "decoder_keep" if student_config.decoder_keep else "decoder_layers"
        raise ModelError(f"student.{key}: the teacher has one stack of layers, and no decoder.")
    return tuple(_select_stack_layers(student_config, stack, select_measured) for stack in stacks)


def _select_stack_layers(
    student_config: StudentConfig,
    stack: LayerStack,
    select_measured: Callable[[LayerStack, int], LayerIndices] | None,
) -> LayerIndices:
    own = stack.part == "decoder" and (student_config.decoder_keep or student_config.decoder_layers)
    prefix = "decoder_" if own else ""
    keep, count = (getattr(student_config, f"{prefix}{key}") for key in ("keep", "layers"))
    where = f"the teacher{chr(39) + 's ' + stack.part if stack.part else ''} has {stack.depth}"
    if keep is not None:
        if keep[-1] >= stack.depth:
            beyond = next(layer for layer in keep if layer >= stack.depth)
            raise ModelError(
                f"student.{prefix}keep names layer {beyond}, and {where} layers, "
                f"0 to {stack.depth - 1}."
            )
        return tuple(keep)
    if count is not None:
        if count > stack.depth:
            raise ModelError(f"student.{prefix}layers is {count}, and {where} layers.")
        if (
            student_config.strategy == "measured"
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
    """The first layer, the last, and others at even distances between them.

    Of 12 layers, 6 are 0, 2, 4, 7, 9 and 11: those that DistilBERT began with (Sanh et al. 2019,
    arXiv:1910.01108).
    """
    if count == 1:
        return (0,)
    # In whole numbers, so that a half always goes up.
    return tuple((2 * i * (depth - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def uniform_layer_mapping(student_depth: int, teacher_depth: int) -> LayerIndices:
    """`student_depth` of `teacher_depth` layers at even distances, the last one among them.

    Args:
        student_depth: How many; where there are more than `teacher_depth`, some are there again.
        teacher_depth: How many there are.
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
