"""What the teacher told is on disk, as it was told."""

import numpy as np
import pytest

from kdcli.training import teacher_logits

TOLD = {
    split: np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
    for split, rows in {"train": 40, "validation": 7}.items()
}


@pytest.fixture
def read(tmp_path):
    teacher_logits.write_teacher_logits(TOLD, tmp_path / "outputs")
    return teacher_logits.load_teacher_logits(tmp_path / "outputs")


@pytest.mark.parametrize("split", TOLD)
def test_every_bit_comes_back_in_its_row(read, split):
    assert np.array_equal(np.array(read[split]["teacher_logits"], dtype=np.float32), TOLD[split])


def test_it_stays_on_disk(read):
    files = [file["filename"] for split in read.values() for file in split.cache_files]
    assert len(files) == 2


def test_a_double_is_written_as_a_float(tmp_path):
    teacher_logits.write_teacher_logits(
        {"train": TOLD["train"].astype(np.float64)}, tmp_path / "outputs"
    )
    size = sum(file.stat().st_size for file in (tmp_path / "outputs").rglob("*.arrow"))
    assert size < TOLD["train"].size * 8 + 1000
    assert (
        teacher_logits.load_teacher_logits(tmp_path / "outputs")["train"]
        .features["teacher_logits"]
        .length
        == 5
    )


def test_of_several_teachers_it_is_the_mean_of_probabilities():
    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    one, other = TOLD["train"], TOLD["train"][::-1].copy()
    mean = teacher_logits.ensemble_teacher_logits([one, other], [3.0, 1.0])
    np.testing.assert_allclose(softmax(mean), 0.75 * softmax(one) + 0.25 * softmax(other), 1e-5)
    alone = teacher_logits.ensemble_teacher_logits([one, one], [1.0, 2.0])
    np.testing.assert_allclose(softmax(alone), softmax(one), 1e-5)


def test_a_teacher_that_is_certain_leaves_no_nan():
    certain = np.array([[1e4, -1e4, 0]], dtype=np.float32)
    mean = teacher_logits.ensemble_teacher_logits([certain, certain[:, ::-1].copy()], [1.0, 1.0])
    assert np.isfinite(mean[0, 0])
    assert not np.isnan(mean).any()
