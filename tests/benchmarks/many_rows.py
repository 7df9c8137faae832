"""What ten million rows take: seconds and memory, from a file to tokens.

    python tests/benchmarks/many_rows.py --rows 10000000 --kind csv [--model FOLDER]

Writes a file of short texts, loads it as a run does, and prints rows a second and the peak of
memory that is the process's own (what a mapped file has in the page cache isn't counted: the
system takes that back at will). With --model, some of its rows are tokenised and a first batch is
made, as for the first step of training.
"""

import argparse
import random
import tempfile
import threading
import time
from pathlib import Path

import psutil

from kdcli.data import dataset_loading
from kdcli.data.tokenization import batch_sampler, collator, tokenize
from kdcli.models import model_io as models
from kdcli.recipe.data import DataConfig

LABELS = ("billing", "delivery", "returns", "account")


def main() -> None:
    """Write, load, tokenise, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--kind", choices=["csv", "jsonl"], default="csv")
    parser.add_argument("--model", help="whose tokens to make")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows.{options.kind}"
        write(file, options.rows)
        held = Path(folder) / f"held.{options.kind}"
        write(held, 1000)
        print(f"{options.rows:,} rows, {file.stat().st_size / 1e6:,.0f} MB of {options.kind}")
        splits = {"train": file.name, "validation": held.name}
        spec = DataConfig(dataset=folder, splits=splits)
        with Watch("loaded", options.rows):
            corpus = dataset_loading.load_dataset_splits(spec, 0)
        if options.model:
            model = models.locate_model(options.model)
            tokenizer = models.load_tokenizer(model)
            with Watch("tokenised", options.rows):
                rows = tokenize.tokenize_dataset(corpus.splits["train"], tokenizer, 32)
            with Watch("first batch", 48):
                lengths = tokenize.token_lengths(rows)
                order = batch_sampler.length_grouped_order(lengths, 48, seed=0, epoch=0)
                collator.PaddingCollator(tokenizer, ["input_ids"])(
                    rows.__getitems__(order[:48].tolist())
                )


def write(file: Path, rows: int) -> None:
    """Short texts that mostly differ, with one of four labels each."""
    words = random.Random(0).choices([f"word{i}" for i in range(5000)], k=1_000_000)
    is_csv = file.suffix == ".csv"
    with file.open("w") as out:
        out.write("text,label\n" if is_csv else "")
        for i in range(rows):
            start = i * 7 % 999_990
            text, label = f"{' '.join(words[start : start + 5])} {i}", LABELS[i % 4]
            out.write(
                f"{text},{label}\n" if is_csv else f'{{"text": "{text}", "label": "{label}"}}\n'
            )


class Watch:
    """Times what is done within, and watches the process's own memory meanwhile."""

    def __init__(self, what: str, rows: int) -> None:
        self.what, self.rows, self.peak, self.over = what, rows, 0.0, threading.Event()

    def __enter__(self) -> None:
        self.start, self.before = time.monotonic(), own_memory()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        while not self.over.wait(0.2):
            self.peak = max(self.peak, own_memory())

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self.start
        self.over.set()
        self.thread.join()
        print(
            f"{self.what}: {seconds:.1f} s ({time.process_time():.0f} s of CPU so far), "
            f"{self.rows / seconds:,.0f} rows a second; memory {self.before:,.0f} MB before, "
            f"{max(self.peak, own_memory()):,.0f} MB at most",
            flush=True,
        )


def own_memory() -> float:
    """Megabytes that the process holds besides mapped files."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e6


if __name__ == "__main__":
    main()
