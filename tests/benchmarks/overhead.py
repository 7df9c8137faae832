"""What checkpoints and checks cost: their share of a run's time.

    python tests/benchmarks/overhead.py clinc_plus --output DIR --set data.dataset=… [--set …]

Runs a recipe with everything that saves, seals and checks under a stop-watch. Stages that are
done already are reused, so that a fine-tuned teacher in DIR leaves the distillation alone.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer

from kdcli.pipeline import run_folder, runner
from kdcli.pipeline.options import RunOptions
from kdcli.progress import SilentReporter
from kdcli.recipe.loading import load_recipe
from kdcli.training import checkpoints

WATCHED = [
    (Trainer, "_save_checkpoint", "checkpoints written"),
    (checkpoints, "seal", "checkpoints sealed"),
    (checkpoints, "prune", "checkpoints removed"),
    (runner, "identities_of", "sources hashed"),
    (run_folder.RunFolder, "fault", "artifacts checked"),
    (runner, "inventory", "artifacts hashed"),
    (run_folder.RunFolder, "publish", "artifacts published"),
]


def main() -> None:
    """Run the recipe and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seconds", type=float, default=300, help="between checkpoints")
    options = parser.parse_args()
    spent: Counter[str] = Counter()
    times: Counter[str] = Counter()

    def watched(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            start = time.monotonic()
            try:
                return function(*args, **named)
            finally:
                spent[name] += time.monotonic() - start
                times[name] += 1

        return timed

    for owner, attribute, name in WATCHED:
        setattr(owner, attribute, watched(getattr(owner, attribute), name))
    start = time.monotonic()
    cadence = run_folder.CheckpointInterval(seconds=options.seconds)
    recipe = load_recipe(options.recipe, options.overrides)
    runner.run_pipeline(
        recipe, options.output, SilentReporter(), options=RunOptions(checkpoint_interval=cadence)
    )
    total = time.monotonic() - start
    print(f"| of {total:.0f} s | times | seconds | share |\n| --- | ---: | ---: | ---: |")
    for name, seconds in spent.most_common():
        print(f"| {name} | {times[name]} | {seconds:.2f} | {100 * seconds / total:.2f} % |")
    whole = spent.total()
    print(f"| all | | {whole:.2f} | {100 * whole / total:.2f} % |")


if __name__ == "__main__":
    main()
