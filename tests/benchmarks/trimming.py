"""What a smaller vocabulary saves a classifier, and what it costs it.

    python tests/benchmarks/trimming.py runs/my-run/student --data DATASET --label intent

Trims the classifier to the training texts at several sizes, and measures it before and after on
the other splits: its parameters, its accuracy, and the share of texts that fall into other tokens,
there and on texts from elsewhere (the quick start's, and the sentences of the documentation).
Training after the cut would change nothing of this: the training texts' tokens are the same.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from kdcli.data import dataset_loading as data
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels.label_matching import map_labels_to_model
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.models import model_io, vocab_trimming
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding_invariance import create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.recipe.data import DataConfig
from kdcli.recipe.recipe_lookup import shipped_recipes_folder

ROOT = Path(__file__).parents[2]


def prose() -> list[str]:
    """The sentences of the documentation."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    parts = re.split(r"(?<=[.!?:])\s+|\n\n", "\n\n".join(file.read_text("utf-8") for file in files))
    return [part for part in parts if 3 < len(part.split()) < 60]


def accuracy(model, tokenizer, corpus: DatasetSplits, split: str) -> float:
    """The share of a split's texts that the model labels right."""
    limit = get_max_length(model, tokenizer, None)
    rows = tokenize_dataset(corpus.splits[split], tokenizer, limit)
    rows = map_labels_to_model(rows, corpus, model_io.get_label_names(model.config))
    found = predict_logits(model, create_collator(model, tokenizer), rows, 64).argmax(axis=1)
    return float((found == rows["labels"]).mean())


def changed(tokenizer, smaller, texts: Sequence[str]) -> float:
    """The share of texts that the smaller vocabulary splits otherwise."""
    return sum(tokenizer.tokenize(t) != smaller.tokenize(t) for t in texts) / len(texts)


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--config")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--sizes", type=float, nargs="*", default=[0, 0.25, 0.4, 0.5, 0.66, 1])
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = DataConfig(dataset=given.data, config=given.config, text=given.text, label=given.label)
    corpus = data.load_dataset_splits(spec, 42)
    folder = model_io.locate_model(given.model)
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    quick = data.load_dataset_splits(
        DataConfig(dataset=str(shipped_recipes_folder() / "quickstart"), label="intent"), 42
    )
    elsewhere = {"quick start": quick.splits["train"]["text"], "prose": prose()}
    splits = [split for split in ("validation", "test") if split in corpus.splits]
    sets = {split: corpus.splits[split]["text"] for split in splits} | elsewhere
    print(
        "pieces", "parameters", "megabytes", *(f"accuracy {split}" for split in splits),
        *(f"other tokens {name} ({len(texts):,})" for name, texts in sets.items()), sep="\t",
    )  # fmt: skip
    for share in given.sizes:
        size = round(share * len(tokenizer))
        texts = list(corpus.splits["train"]["text"])
        kept = vocab_trimming.select_token_ids(tokenizer, model.config, texts, size)
        smaller, own = vocab_trimming.trim_vocabulary(model, tokenizer, texts, kept)
        count = model_io.count_parameters(smaller)
        print(
            len(kept), count, f"{4 * count / 1e6:.1f}",
            *(f"{accuracy(smaller, own, corpus, split):.4f}" for split in splits),
            *(f"{changed(tokenizer, own, texts):.4f}" for texts in sets.values()),
            sep="\t", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
