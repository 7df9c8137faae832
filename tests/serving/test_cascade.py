"""A served cascade answers as `CascadeClassifier` does, by every protocol, and counts."""

import json

import httpx
import numpy as np
import pytest
from serving.running import running

import kdcli
from kdcli.api.cascade import CascadeClassifier


@pytest.fixture(scope="module")
def cascade(model, tiny_teacher):
    """The student's less sure half of the texts goes to the teacher."""
    student, teacher = kdcli.load(model), kdcli.load(tiny_teacher, device="cpu")
    return lambda threshold: CascadeClassifier(student, teacher, threshold)


def test_every_protocol_gives_the_label_of_who_answered(cascade, texts, expected):
    threshold = float(np.median([each.score for each in expected]))
    some = texts[:60]
    answers = cascade(threshold).predict(some)
    assert 5 < sum(each.deferred for each in answers) < 55
    labels = [each.label for each in answers]
    with running(cascade(threshold), name="pair") as address, httpx.Client() as client:
        native = client.post(f"{address}/classify", json={"texts": some}).json()["predictions"]
        assert [each["label"] for each in native] == labels
        assert [each["deferred"] for each in native] == [each.deferred for each in answers]
        scores = [each["score"] for each in native]
        np.testing.assert_allclose(scores, [each.score for each in answers], rtol=1e-5)
        tei = client.post(f"{address}/predict", json={"inputs": [[text] for text in some]}).json()
        assert [row[0]["label"] for row in tei] == labels
        # Of a text that is not refused, the first score is the decision's.
        for row, answer in zip(tei, answers, strict=True):
            if not answer.refused:
                assert row[0]["score"] == pytest.approx(answer.score, rel=1e-4)
        metrics = client.get(f"{address}/metrics").text
    deferred = 2 * sum(each.deferred for each in answers)
    assert f"kd_deferred_texts_total {deferred:.1f}" in metrics
    assert "kd_deferral_alarm 0.0" in metrics


def test_the_alarm_is_a_metric(cascade, texts):
    pair = cascade(2.0)
    pair.expected_share = (0.1, 0.2)
    with running(pair, name="pair") as address, httpx.Client(timeout=60) as client:
        for start in range(0, 300, 100):
            part = texts[start : start + 100]
            client.post(f"{address}/classify", content=json.dumps({"texts": part}))
        assert "kd_deferral_alarm 1.0" in client.get(f"{address}/metrics").text
