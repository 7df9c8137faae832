"""Which published measure of a layer's importance leaves out the right ones.

    python tests/benchmarks/layer_importance.py runs/my-run/teacher --data DATASET --label intent

Each measure chooses, on 256 training texts, the layers of a fine-tuned classifier to keep. What is
left is not trained: on validation texts its answers are compared with those of the whole model.
The best choice there is, for a number of layers, is looked for among all of them.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdcli.data import dataset_loading as data
from kdcli.data.tokenization.tokenize import token_lengths, tokenize_dataset
from kdcli.models import (
    forward_without_layers,
    layer_importance,
    layer_selection,
    layer_stacks,
    model_io,
)
from kdcli.models.layer_stacks import LayerIndices, LayerStack
from kdcli.models.padding_invariance import create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.recipe.data import DataConfig

Batches = Sequence[Mapping[str, Tensor]]


def batches(model: Any, tokenizer: Any, rows: Any, count: int) -> Batches:
    """Some of the texts, each batch of one length."""
    rows = tokenize_dataset(rows.shuffle(seed=0).select(range(min(count, len(rows)))), tokenizer,
                  get_max_length(model, tokenizer, None))  # fmt: skip
    rows = rows.select_columns([name for name in rows.column_names if name != "label"])
    collate, long = create_collator(model, tokenizer), token_lengths(rows)
    alike = [[i for i, length in enumerate(long) if length == wanted] for wanted in set(long)]
    return [collate(rows.__getitems__(places)) for places in alike]


def answers(model: Any, stack: LayerStack, left_out: Sequence[int], inputs: Batches) -> Tensor:
    """The model's log-probabilities without some of its layers: (texts, labels)."""
    with torch.inference_mode(), forward_without_layers.skip_layers(model, stack, left_out):
        return torch.cat([model(**batch).logits.log_softmax(-1) for batch in inputs])


def divergence(found: Tensor, whole: Tensor) -> float:
    """Kullback-Leibler divergence from the whole model's answers, in nats a text."""
    return float(functional.kl_div(found, whole, reduction="batchmean", log_target=True))


def states(model: Any, inputs: Batches) -> Iterator[Tensor]:
    """What goes into each layer, and what comes out of the last: (layers + 1, tokens, width)."""
    with torch.inference_mode():
        for batch in inputs:
            found = model(**batch, output_hidden_states=True).hidden_states
            yield torch.stack(found).flatten(1, 2)


def greedily(model: Any, stack: LayerStack, count: int, inputs: Batches) -> LayerIndices:
    """One after the other, each time the one that the answers miss least: SLEB, 2402.09025."""
    return layer_importance.select_layers_greedily(model, stack, count, inputs, use_logits=True)


def one_by_one(model: Any, stack: LayerStack, count: int, inputs: Batches) -> LayerIndices:
    """Those that the answers miss least when each alone is gone: Shortened LLaMA, 2402.02834."""
    whole = answers(model, stack, (), inputs)
    missed = [divergence(answers(model, stack, (i,), inputs), whole) for i in range(stack.depth)]
    return _largest(missed, count)


def block_influence(model: Any, stack: LayerStack, count: int, inputs: Batches) -> LayerIndices:
    """Those whose output is most like their input go: ShortGPT, 2403.03853, eq. 1."""
    alike = [functional.cosine_similarity(s[:-1], s[1:], dim=-1).sum(-1)
             for s in states(model, inputs)]  # fmt: skip
    return _largest((-sum(alike)).tolist(), count)


def one_stretch(model: Any, stack: LayerStack, count: int, inputs: Batches) -> LayerIndices:
    """The stretch that turns its input by the smallest angle goes: Gromov et al., 2403.17887."""
    gone = stack.depth - count
    turned = torch.zeros(count + 1)
    for s in states(model, inputs):
        cosine = functional.cosine_similarity(s[: count + 1], s[gone:], dim=-1)
        turned += cosine.clamp(-1, 1).arccos().sum(-1)
    start = int(turned.argmin())
    return tuple(i for i in range(stack.depth) if not start <= i < start + gone)


def _largest(worth: Sequence[float], count: int) -> LayerIndices:
    best = sorted(range(len(worth)), key=worth.__getitem__, reverse=True)[:count]
    return tuple(sorted(best))


MEASURES = {
    "greedily by the answers": greedily,
    "one by one by the answers": one_by_one,
    "block influence": block_influence,
    "one stretch by its angle": one_stretch,
    "spaced": lambda model, stack, count, inputs: layer_selection.evenly_spaced_layers(
        count, stack.depth
    ),
}


def main() -> None:
    """Print a Markdown table: a row for each measure and number of layers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--keep", type=int, nargs="*", help="numbers of layers to keep")
    parser.add_argument("--texts", type=int, default=500, help="validation texts to compare on")
    given = parser.parse_args()
    spec = DataConfig(dataset=given.data, text=given.text, label=given.label)
    corpus, folder = data.load_dataset_splits(spec, 42), model_io.locate_model(given.model)
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    stack, *_ = layer_stacks.find_layer_stacks(model)
    seen = batches(model, tokenizer, corpus.splits["train"], 256)
    unseen = batches(model, tokenizer, corpus.splits["validation"], given.texts)
    whole = answers(model, stack, (), unseen)
    print("| kept | by | layers | agreement | divergence |\n| ---: | --- | --- | ---: | ---: |")
    for count in given.keep or range(stack.depth - 1, 0, -1):
        chosen = {name: choose(model, stack, count, seen) for name, choose in MEASURES.items()}
        every = combinations(range(stack.depth), count)
        found = {}
        for kept in every if stack.depth <= 6 else set(chosen.values()):
            left_out = set(range(stack.depth)) - set(kept)
            found[kept] = answers(model, stack, sorted(left_out), unseen)
        best = min(found, key=lambda kept: divergence(found[kept], whole))
        for name, kept in {**chosen, "the best there is": best}.items():
            agreement = (found[kept].argmax(-1) == whole.argmax(-1)).float().mean()
            cells = (count, name, ", ".join(map(str, kept)), f"{100 * agreement:.1f} %",
                     f"{divergence(found[kept], whole):.3f}")  # fmt: skip
            print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
