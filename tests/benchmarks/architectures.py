"""Which architectures kd evaluates and distils as plain transformers does.

    PYTHONPATH=tests python tests/benchmarks/architectures.py > docs/reference/architectures.md

Every architecture is tried as a tiny random model, in half an hour on one core. What it is
compared with stands in `tests/models/against_transformers.py`.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
from models.against_transformers import EQUAL, Wrong, distilled, evaluated, outcome
from models.architectures import ARCHITECTURES, LEFT_OUT
from transformers.utils import logging as transformers_logging

_HEAD = """\
# Architectures

kd was tried on every architecture that transformers classifies texts with. Each was a tiny model
with random weights and a tokenizer of its kind, and its texts had one word to more than it takes.

- **evaluate**: `kd evaluate` gives each text the logits, to 1e-4, that plain transformers gives it
  alone, in float32 and without padding, and the same accuracy.
- **distill**: with the model as a finished teacher, `kd distill` writes the same logits of it, cuts
  a student with every second layer out of it, trains that, and states the accuracy that plain
  transformers finds for the student's folder.

"Refused" is with the reason, before anything is written. To make this page again:

```
PYTHONPATH=tests python tests/benchmarks/architectures.py > docs/reference/architectures.md
```

| architecture | evaluate | distill |
| --- | --- | --- |
"""


def tried(step: Callable[..., str], kind: str) -> str:
    """What becomes of an architecture, as a cell of a table."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = outcome(step, kind, Path(folder))
        except Wrong as fault:
            return f"**wrong**: {fault}"
        except Exception as fault:  # a row of the table, too
            return f"**fails**: {type(fault).__name__}: {fault}".replace("\n", " ")
        return found if found == EQUAL else f"refused: {found.replace(folder + '/', '')}"


def main() -> None:
    """Write the page to standard output."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.disable()
    print(_HEAD, end="")
    for kind in sorted(ARCHITECTURES, key=str.lower):
        print(kind, file=sys.stderr)
        print(f"| {kind} | {tried(evaluated, kind)} | {tried(distilled, kind)} |", flush=True)
    print("\nLeft out:")
    for kind, reason in LEFT_OUT.items():
        print(f"- {kind}: {reason}.")


if __name__ == "__main__":
    main()
