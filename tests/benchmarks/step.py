"""What a step of the student's training takes, and what it would take done otherwise.

    python tests/benchmarks/step.py --data DIR --teacher DIR [--steps 60]

DATA is a folder with CLINC150's splits, TEACHER a BERT classifier of them. A student of every
second layer learns the labels: as `kd` trains it, and with one thing changed at a time. All take
the same texts, in turn, three times over; the fastest round counts. Prints a Markdown table.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcli.data import dataset_loading as data
from kdcli.data.tokenization.batch_sampler import length_grouped_order
from kdcli.data.tokenization.tokenize import token_lengths, tokenize_dataset
from kdcli.models import layer_pruning, layer_stacks, model_io
from kdcli.models.cls_only import last_layer_cls_only
from kdcli.models.padding_invariance import create_collator
from kdcli.recipe.loading import load_recipe
from kdcli.training import dropout
from kdcli.training.embedding_compaction import compact_embeddings

BATCH = 48


@dataclass(frozen=True)
class Way:
    """How steps are taken; the defaults are kd's, without dropout."""

    dropout: float = 0.0
    fused: bool = True
    whole_table: bool = False
    all_tokens: bool = False
    like_lengths: bool = True
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    compiled: bool = False


WAYS = {
    "as kd does": Way(),
    "with dropout": Way(dropout=0.1),
    "AdamW not fused": Way(fused=False),
    "the whole embedding table": Way(whole_table=True),
    "all tokens of the last layer": Way(all_tokens=True),
    "batches at random": Way(like_lengths=False),
    "bfloat16": Way(around=lambda: torch.autocast("cpu", torch.bfloat16)),
    "torch.compile": Way(compiled=True),
}


class Steps:
    """A student on its way: one pass over the same batches after another."""

    def __init__(self, way: Way, student: Any, rows: Any, batches: list[Any]) -> None:
        self.way, self.student, self.batches = way, student, batches
        self.held = ExitStack()
        self.held.enter_context(dropout.temporary_dropout(student, way.dropout))
        if not way.whole_table:
            place = self.held.enter_context(compact_embeddings([student], [rows]))
            self.batches = [{**b, "input_ids": place[b["input_ids"]]} for b in batches]
        if not way.all_tokens:
            self.held.enter_context(last_layer_cls_only(student))
        self.model = torch.compile(student, dynamic=True) if way.compiled else student
        self.optimiser = torch.optim.AdamW(student.parameters(), 3e-4, weight_decay=0,
                                           fused=way.fused)  # fmt: skip

    def take(self) -> float:
        """One pass: seconds a step."""
        self.student.train()
        start = time.perf_counter()
        for batch in self.batches:
            with self.way.around():
                loss = self.model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
        return (time.perf_counter() - start) / len(self.batches)


def groups(count: int, long: np.ndarray, way: Way) -> list[np.ndarray]:
    """The rows of each batch: of about like length, or as they come."""
    shuffled = np.random.default_rng(0).permutation(len(long))
    order = length_grouped_order(long, BATCH, 0, 0) if way.like_lengths else shuffled
    return np.split(order[: count * BATCH], count)


def main() -> None:
    """Take the steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = [f"data.dataset={options.data}", "data.config=null"]
    corpus = data.load_dataset_splits(load_recipe("clinc_plus", settings).data, 0)
    tokenizer = model_io.load_tokenizer(options.teacher)
    teacher = model_io.load_classifier(options.teacher)
    keep = [tuple(range(0, stack.depth, 2)) for stack in layer_stacks.find_layer_stacks(teacher)]
    student = layer_pruning.prune_layers(teacher, keep, "same")
    rows = tokenize_dataset(corpus.splits["train"], tokenizer, 64)
    long, collate = token_lengths(rows), create_collator(student, tokenizer)
    best, first, padding = {}, {}, {}
    running: dict[str, Steps] = {}
    for name, way in WAYS.items():
        batches = []
        for group in groups(options.steps, long, way):
            batch = dict(collate(rows.__getitems__(group.tolist())))
            batches.append(batch | {"labels": torch.tensor(rows[group]["label"])})
        cells = sum(batch["attention_mask"].numel() for batch in batches)
        padding[name] = 1 - sum(int(batch["attention_mask"].sum()) for batch in batches) / cells
        running[name] = Steps(way, copy.deepcopy(student), rows, batches)
        first[name] = running[name].take()
        best[name] = math.inf
    for _ in range(options.rounds):
        for name, steps in running.items():
            best[name] = min(best[name], steps.take())
    base = best["as kd does"]
    print("| a step | milliseconds | of kd's | the first round | padding |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in WAYS:
        print(f"| {name} | {1000 * best[name]:.0f} | {best[name] / base:.2f} | "
              f"{options.steps * first[name]:.0f} s | {100 * padding[name]:.0f} % |")  # fmt: skip


if __name__ == "__main__":
    main()
