"""Two data sets of what Debian says of its packages: their sections, and their tags.

    python tests/benchmarks/packages.py runs/packages
    kd recipe new --data runs/packages/tags

`sections` has one label a text, `tags` several. A text is a package's name and short description.
Reads `apt-cache dumpavail`; of each source one package is taken, so that no split holds another's
near copies.
"""

import argparse
import collections
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

SIZES = {"validation": 2_000, "test": 2_000, "train": 12_000}
LEAST = 150  # packages that a label must have
# What the short description can tell.
FACETS = ("field", "implemented-in", "interface", "role", "use", "uitoolkit", "works-with")


def packages() -> Iterator[dict[str, str]]:
    """What is said of each package, the first of each source."""
    told = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True)
    sources = set()
    for block in told.stdout.split("\n\n"):
        lines = re.sub(r"\n\s+", " ", block).splitlines()
        fields = dict(line.partition(": ")[::2] for line in lines)
        source = fields.get("Source", fields.get("Package", "")).partition(" ")[0]
        if "Description" in fields and source not in sources:
            sources.add(source)
            yield fields


def write(rows: list[tuple[str, list[str]]], folder: Path, *, single: bool = False) -> None:
    """Write the splits, without labels that too few texts have."""
    counts = collections.Counter(label for _, labels in rows for label in labels)
    names = {label for label, count in counts.items() if count >= LEAST}
    kept = [(text, [n for n in labels if n in names]) for text, labels in rows]
    kept = sorted((text, labels) for text, labels in kept if labels)
    random.Random(0).shuffle(kept)
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        chosen, kept = kept[:size], kept[size:]
        lines = [
            json.dumps({"text": text, "label": labels[0] if single else labels})
            for text, labels in chosen
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{folder}: {len(names)} labels")


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    sections, tags = [], []
    for package in packages():
        text = f"{package['Package']}: {package['Description']}"
        sections.append((text, [package["Section"].rpartition("/")[2]]))
        named = package.get("Tag", "").replace(",", " ").split()
        tags.append((text, [tag for tag in named if tag.partition("::")[0] in FACETS]))
    write(sections, folder / "sections", single=True)
    write(tags, folder / "tags")


if __name__ == "__main__":
    main()
