"""What evaluating costs beside the model's own forward passes over the same texts.

    python tests/benchmarks/evaluation.py MODEL --data FOLDER --label COLUMN [--out-of-scope LABEL]

Both are of the test split, in the same batches; they take turns, and the medians are compared.
`all of it` is `compare` as `kd evaluate` runs it, loading and tokenising included, without the
stop-watch runs of a text at a time, which are forward passes of their own. Seconds are the
processor's, of one thread, so that what else runs on the machine counts little.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from kdcli.data.dataset_loading import load_dataset_splits
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.evaluation.compare import compare_models
from kdcli.evaluation.efficiency import latency
from kdcli.evaluation.predict import model_logits
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.model_io import locate_model
from kdcli.models.padding_invariance import create_collator
from kdcli.progress import SilentReporter, StageProgress
from kdcli.recipe.data import DataConfig
from kdcli.recipe.schema import EvaluateConfig


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--out-of-scope")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = load_dataset_splits(DataConfig(dataset=options.data, label=options.label), 0)
    corpus = DatasetSplits({"test": whole.splits["test"]}, whole.label_names)
    spec = EvaluateConfig(splits=("test",), out_of_scope=options.out_of_scope, latency_texts=1)
    folders = {"model": Path(locate_model(options.model))}
    latency._NUM_WARM_UP_TEXTS, latency._NUM_BATCHES = 1, 1
    subject = model_logits.load_models_to_compare(
        folders, corpus, ["test"], None, SilentReporter()
    ).models["model"]
    encoded = tokenize_dataset(corpus.splits["test"], subject.tokenizer, subject.max_length)
    collate = create_collator(subject.model, subject.tokenizer)
    spent: dict[str, list[float]] = {"forward passes": [], "all of it": []}
    for _ in range(options.rounds):
        start = time.process_time()
        predict_logits(
            subject.model,
            collate,
            encoded,
            spec.batch_size,
            StageProgress(SilentReporter(), len(encoded)),
        )
        spent["forward passes"].append(time.process_time() - start)
        start = time.process_time()
        compare_models(folders, corpus, spec, None, SilentReporter())
        spent["all of it"].append(time.process_time() - start)
    alone = median(spent["forward passes"])
    print(f"| {len(encoded):,} texts | seconds | times |\n| --- | ---: | ---: |")
    for name, seconds in spent.items():
        print(f"| {name} | {median(seconds):.2f} | {median(seconds) / alone:.2f} |")


if __name__ == "__main__":
    main()
