"""What a model computes without some of its layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcli.models.layers import Layers, Stack, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-5
_LENGTHS = (9, 5)
# What a layer knows of its place, and what T5's first layer has and passes on to the others.
_PLACE = ("idx", "index", "layer_id", "number", "has_relative_attention_bias")


@contextmanager
def without(model: "PreTrainedModel", stack: Stack, left_out: Sequence[int]) -> Iterator[None]:
    """The model as if some of a stack's layers passed on what they are given.

    The layers run all the same: what else they tell the following ones stays.
    """
    calls = count()

    def skip(module: nn.Module, given: Any, named: Any, output: Any) -> Any:
        if next(calls) % stack.depth not in left_out:
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


def difference(
    teacher: "PreTrainedModel",
    student: "PreTrainedModel",
    stacks: Sequence[Stack],
    keep: Sequence[Layers],
) -> str | None:
    """In what a student differs from its teacher without the layers left out; None for nothing.

    Both read the same padded batch. Where the student has another form than the teacher, the
    hidden states are compared, otherwise the logits. Settings that a short text doesn't touch,
    such as a layer's window of attention, are compared one by one.
    """
    batch = _probe(text_config(teacher.config))
    same = type(teacher) is type(student)
    with torch.inference_mode(), ExitStack() as skipped:
        found = _outputs(student, batch, same)
        for stack, kept in zip(stacks, keep, strict=True):
            left_out = sorted(set(range(stack.depth)) - set(kept))
            skipped.enter_context(without(teacher, stack, left_out))
        expected = _outputs(teacher, batch, same)
    real = batch["attention_mask"].bool() if not same else ...
    off = (found - expected)[real].abs().max().item()
    if not off <= _TOLERANCE * (1 + expected.abs().max().item()):
        return f"what they compute depends on their place (the outputs are {off:.2g} off)"
    if not same:
        return None
    for stack, kept in zip(stacks, keep, strict=True):
        before, after = (model.get_submodule(stack.path) for model in (teacher, student))
        for layer, own in zip(() if stack.shared else kept, after, strict=False):
            there, here = _settings(before[layer]), _settings(own)
            if other := [name for name in there.keys() & here if there[name] != here[name]]:
                return f"{min(other)} depends on a layer's place"
    return None


def _outputs(model: "PreTrainedModel", batch: Mapping[str, Tensor], logits: bool) -> Tensor:
    """The logits, or the last hidden states: the decoder's, of an encoder-decoder."""
    model.eval()
    found: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _, given, output: found.append(output[0]))
    with hook:
        answers = model(**batch).logits
    return answers if logits else found[-1]


def _probe(config: Any) -> dict[str, Tensor]:
    """Two texts of random tokens, the shorter one padded."""
    special = {
        value
        for name, value in config.to_dict().items()
        if name.endswith("token_id") and isinstance(value, int)
    }
    ordinary = [i for i in range(config.vocab_size) if i not in special]
    random = torch.Generator().manual_seed(0)
    places = torch.randint(len(ordinary), (len(_LENGTHS), max(_LENGTHS)), generator=random)
    ids, mask = torch.tensor(ordinary)[places], torch.zeros_like(places)
    for row, length in enumerate(_LENGTHS):
        mask[row, :length] = 1
        ids[row, length:] = config.pad_token_id or 0
        # Encoder-decoders answer at the end of the text.
        if config.is_encoder_decoder and config.eos_token_id is not None:
            ids[row, length - 1] = config.eos_token_id
    return {"input_ids": ids, "attention_mask": mask}


def _settings(layer: nn.Module) -> dict[str, Any]:
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and not (name.startswith("_") or any(part in name for part in _PLACE))
    }


def least_missed(
    model: "PreTrainedModel",
    stack: Stack,
    count: int,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    head: bool,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Layers:
    """The layers to keep of a stack, so that the model's outputs move least without the others.

    One layer after the other is left out, each time the one that is missed least with those
    before it gone (greedily, as SLEB does: Song et al. 2024, arXiv:2402.09025, algorithm 1).

    Args:
        model: A classifier.
        stack: Of its layers.
        count: How many to keep.
        batches: Inputs to measure on, without padding.
        head: Whether its head was trained: where not, its last hidden states are the outputs.
        advance: Told how many of how many trials are through.

    Returns:
        The layers, in rising order.
    """
    first, trials = _pinned(model, stack), 0
    total = sum(stack.depth - first - gone for gone in range(stack.depth - count))
    with torch.inference_mode():
        whole = [_outputs(model, batch, head) for batch in batches]

        def missed(left_out: Sequence[int]) -> float:
            nonlocal trials
            with without(model, stack, left_out):
                moved = [
                    _moved(_outputs(model, batch, head), before, head)
                    for batch, before in zip(batches, whole, strict=True)
                ]
            trials += 1
            advance(trials, total)
            return sum(moved)

        left_out: list[int] = []
        while len(left_out) < stack.depth - count:
            others = sorted(set(range(first, stack.depth)) - set(left_out))
            left_out.append(min(others, key=lambda layer: missed([*left_out, layer])))
    return tuple(sorted(set(range(stack.depth)) - set(left_out)))


def _pinned(model: "PreTrainedModel", stack: Stack) -> bool:
    """Whether the first layer lacks what the others need, as in ModernBERT, and has to stay."""
    if stack.depth == 1:
        return False
    one, other = (model.get_submodule(f"{stack.path}.{i}").state_dict().keys() for i in (0, 1))
    return bool(other - one)


def _moved(found: Tensor, before: Tensor, head: bool) -> float:
    """How far outputs moved: the divergence of logits, the squared distance of hidden states."""
    if not head:
        return float((found - before).square().sum())
    found, before = found.log_softmax(-1), before.log_softmax(-1)
    return float(nn.functional.kl_div(found, before, reduction="sum", log_target=True))
