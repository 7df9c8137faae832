"""What a model computes without some of its layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcli.models.layer_stacks import LayerIndices, LayerStack, get_text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-5
_PROBE_LENGTHS = (9, 5)
# What a layer knows of its place, and what T5's first layer has and passes on to the others.
_POSITION_DEPENDENT_ATTRIBUTES = (
    "idx",
    "index",
    "layer_id",
    "number",
    "has_relative_attention_bias",
)


@contextmanager
def skip_layers(
    model: "PreTrainedModel", stack: LayerStack, layers: Sequence[int]
) -> Iterator[None]:
    """The model as if some of a stack's layers passed on what they are given.

    The layers run all the same: what else they tell the following ones stays.
    """
    calls = count()

    def skip(module: nn.Module, given: Any, named: Any, output: Any) -> Any:
        if next(calls) % stack.depth not in layers:
            return output
        states = given[0] if given else named["hidden_states"]
        return states if isinstance(output, Tensor) else (states, *output[1:])

    hooks = [
        layer.register_forward_hook(skip, with_kwargs=True)
        for layer in model.get_submodule(stack.path)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def find_pruning_mismatch(
    teacher: "PreTrainedModel",
    student: "PreTrainedModel",
    stacks: Sequence[LayerStack],
    kept_layers: Sequence[LayerIndices],
) -> str | None:
    """In what a student differs from its teacher without the layers left out; None for nothing.

    Both read the same padded batch. Where the student has another form than the teacher, the
    hidden states are compared, otherwise the logits. Settings that a short text doesn't touch,
    such as a layer's window of attention, are compared one by one.
    """
    batch = _random_padded_batch(get_text_config(teacher.config))
    same = type(teacher) is type(student)
    with torch.inference_mode(), ExitStack() as skipped:
        found = _logits_or_last_hidden(student, batch, same)
        for stack, kept in zip(stacks, kept_layers, strict=True):
            left_out = sorted(set(range(stack.depth)) - set(kept))
            skipped.enter_context(skip_layers(teacher, stack, left_out))
        expected = _logits_or_last_hidden(teacher, batch, same)
    real = batch["attention_mask"].bool() if not same else ...
    off = (found - expected)[real].abs().max().item()
    if not off <= _TOLERANCE * (1 + expected.abs().max().item()):
        return f"what they compute depends on their place (the outputs are {off:.2g} off)"
    if not same:
        return None
    for stack, kept in zip(stacks, kept_layers, strict=True):
        before, after = (model.get_submodule(stack.path) for model in (teacher, student))
        for layer, own in zip(() if stack.shared else kept, after, strict=False):
            there, here = _layer_attributes(before[layer]), _layer_attributes(own)
            if other := [name for name in there.keys() & here if there[name] != here[name]]:
                return f"{min(other)} depends on a layer's place"
    return None


def _logits_or_last_hidden(
    model: "PreTrainedModel", batch: Mapping[str, Tensor], use_logits: bool
) -> Tensor:
    """The logits, or the last hidden states: the decoder's, of an encoder-decoder."""
    model.eval()
    found: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _, given, output: found.append(output[0]))
    with hook:
        answers = model(**batch).logits
    return answers if use_logits else found[-1]


def _random_padded_batch(config: Any) -> dict[str, Tensor]:
    """Two texts of random tokens, the shorter one padded."""
    special = {
        value
        for name, value in config.to_dict().items()
        if name.endswith("token_id") and isinstance(value, int)
    }
    ordinary = [i for i in range(config.vocab_size) if i not in special]
    random = torch.Generator().manual_seed(0)
    places = torch.randint(
        len(ordinary), (len(_PROBE_LENGTHS), max(_PROBE_LENGTHS)), generator=random
    )
    ids, mask = torch.tensor(ordinary)[places], torch.zeros_like(places)
    for row, length in enumerate(_PROBE_LENGTHS):
        mask[row, :length] = 1
        ids[row, length:] = config.pad_token_id or 0
        # Encoder-decoders answer at the end of the text.
        if config.is_encoder_decoder and config.eos_token_id is not None:
            ids[row, length - 1] = config.eos_token_id
    return {"input_ids": ids, "attention_mask": mask}


def _layer_attributes(layer: nn.Module) -> dict[str, Any]:
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and not (
            name.startswith("_") or any(part in name for part in _POSITION_DEPENDENT_ATTRIBUTES)
        )
    }


def select_layers_greedily(
    model: "PreTrainedModel",
    stack: LayerStack,
    num_to_keep: int,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    use_logits: bool,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> LayerIndices:
    """The layers to keep of a stack, so that the model's outputs move least without the others.

    One layer after the other is left out, each time the one that is missed least with those
    before it gone (greedily, as SLEB does: Song et al. 2024, arXiv:2402.09025, algorithm 1).

    Args:
        model: A classifier.
        stack: Of its layers.
        num_to_keep: How many to keep.
        batches: Inputs to measure on, without padding.
        use_logits: Whether its head was trained: where not, its last hidden states are the outputs.
        advance: Told how many of how many trials are through.

    Returns:
        The layers, in rising order.
    """
    first, trials = _must_keep_first_layer(model, stack), 0
    total = sum(stack.depth - first - gone for gone in range(stack.depth - num_to_keep))
    with torch.inference_mode():
        whole = [_logits_or_last_hidden(model, batch, use_logits) for batch in batches]

        def missed(left_out: Sequence[int]) -> float:
            nonlocal trials
            with skip_layers(model, stack, left_out):
                moved = [
                    _output_change(
                        _logits_or_last_hidden(model, batch, use_logits), before, use_logits
                    )
                    for batch, before in zip(batches, whole, strict=True)
                ]
            trials += 1
            advance(trials, total)
            return sum(moved)

        left_out: list[int] = []
        while len(left_out) < stack.depth - num_to_keep:
            others = sorted(set(range(first, stack.depth)) - set(left_out))
            left_out.append(min(others, key=lambda layer: missed([*left_out, layer])))
    return tuple(sorted(set(range(stack.depth)) - set(left_out)))


def _must_keep_first_layer(model: "PreTrainedModel", stack: LayerStack) -> bool:
    """Whether the first layer lacks what the others need, as in ModernBERT, and has to stay."""
    if stack.depth == 1:
        return False
    one, other = (model.get_submodule(f"{stack.path}.{i}").state_dict().keys() for i in (0, 1))
    return bool(other - one)


def _output_change(outputs: Tensor, reference: Tensor, use_logits: bool) -> float:
    """How far outputs moved: the divergence of logits, the squared distance of hidden states."""
    if not use_logits:
        return float((outputs - reference).square().sum())
    outputs, reference = outputs.log_softmax(-1), reference.log_softmax(-1)
    return float(nn.functional.kl_div(outputs, reference, reduction="sum", log_target=True))
