"""Which architectures kd evaluates and distils as plain transformers does.

    PYTHONPATH=tests python tests/benchmarks/architectures.py > docs/reference/architectures.md

Every architecture is tried as a tiny random model, in an hour on one core. What it is
compared with stands in `tests/models/against_transformers.py`.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
from models.against_transformers import EQUAL, Wrong, distilled, evaluated, exported, outcome
from models.architectures import ARCHITECTURES, LEFT_OUT
from transformers.utils import logging as transformers_logging

_HEAD = """\
# Architectures

kd was tested with every architecture that transformers classifies texts with. Each test uses a tiny
model with random weights and a matching tokenizer, on texts from one word up to more than the
model's maximum length.

- **evaluate**: `kd evaluate` gives each text the same logits, to 1e-4, and the same accuracy as
  plain transformers gives it alone, in float32 and without padding.
- **distill**: with the model as a finished teacher, `kd distill` writes the same logits, builds a
  student of every second layer, trains it, and reports the accuracy that plain transformers gets
  from the student's folder.
- **export**: `kd export` writes an ONNX file, and `kdcli.runtime` gets the same logits from it, to
  1e-4 (T5: 1e-3 of the largest), in padded batches.

"Refused" gives the reason; kd then writes nothing. To regenerate this page:

```
PYTHONPATH=tests python tests/benchmarks/architectures.py > docs/reference/architectures.md
```

| architecture | evaluate | distill | export |
| --- | --- | --- | --- |
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
        cells = [tried(step, kind) for step in (evaluated, distilled, exported)]
        print(f"| {' | '.join([kind, *cells])} |", flush=True)
    print("\nLeft out:")
    for kind, reason in LEFT_OUT.items():
        print(f"- {kind}: {reason}.")


if __name__ == "__main__":
    main()
