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

from kdcli.data.encode import encode
from kdcli.data.source import Corpus, load
from kdcli.evaluation import latency, passes
from kdcli.evaluation.compare import compare
from kdcli.models.forward import logits
from kdcli.models.padding import collator_for
from kdcli.models.source import locate
from kdcli.progress import Silent, Tally
from kdcli.recipe.schema import DataSpec, EvaluateSpec


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
    whole = load(DataSpec(dataset=options.data, label=options.label), 0)
    corpus = Corpus({"test": whole.splits["test"]}, whole.labels)
    spec = EvaluateSpec(splits=("test",), out_of_scope=options.out_of_scope, latency_texts=1)
    folders = {"model": Path(locate(options.model))}
    latency._WARM_UP, latency._BATCHES = 1, 1
    subject = passes.load(folders, corpus, ["test"], None, Silent()).subjects["model"]
    encoded = encode(corpus.splits["test"], subject.tokenizer, subject.limit)
    collate = collator_for(subject.model, subject.tokenizer)
    spent: dict[str, list[float]] = {"forward passes": [], "all of it": []}
    for _ in range(options.rounds):
        start = time.process_time()
        logits(subject.model, collate, encoded, spec.batch_size, Tally(Silent(), len(encoded)))
        spent["forward passes"].append(time.process_time() - start)
        start = time.process_time()
        compare(folders, corpus, spec, None, Silent())
        spent["all of it"].append(time.process_time() - start)
    alone = median(spent["forward passes"])
    print(f"| {len(encoded):,} texts | seconds | times |\n| --- | ---: | ---: |")
    for name, seconds in spent.items():
        print(f"| {name} | {median(seconds):.2f} | {median(seconds) / alone:.2f} |")


if __name__ == "__main__":
    main()
