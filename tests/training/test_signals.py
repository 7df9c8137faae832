"""What the teacher told is on disk, as it was told."""

import numpy as np
import pytest

from kdcli.training import signals

TOLD = {
    split: np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
    for split, rows in {"train": 40, "validation": 7}.items()
}


@pytest.fixture
def read(tmp_path):
    signals.write(TOLD, tmp_path / "outputs")
    return signals.read(tmp_path / "outputs")


@pytest.mark.parametrize("split", TOLD)
def test_every_bit_comes_back_in_its_row(read, split):
    assert np.array_equal(np.array(read[split]["teacher_logits"], dtype=np.float32), TOLD[split])


def test_it_stays_on_disk(read):
    files = [file["filename"] for split in read.values() for file in split.cache_files]
    assert len(files) == 2


def test_a_double_is_written_as_a_float(tmp_path):
    signals.write({"train": TOLD["train"].astype(np.float64)}, tmp_path / "outputs")
    size = sum(file.stat().st_size for file in (tmp_path / "outputs").rglob("*.arrow"))
    assert size < TOLD["train"].size * 8 + 1000
    assert signals.read(tmp_path / "outputs")["train"].features["teacher_logits"].length == 5
