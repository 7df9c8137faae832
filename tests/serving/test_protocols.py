"""Each protocol, as its own clients speak it, gives the labels of `kdcli.load`."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from huggingface_hub import InferenceClient
from serving.running import FakeClassifier, running

KSERVE = "/v2/models/served/infer"


def post(address, path, content):
    done = httpx.post(address + path, json=content)
    assert done.status_code == 200, done.text
    return done.json()


def chunks(texts, size=100):
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def test_inference_client_of_huggingface_hub(server, texts, expected, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    client = InferenceClient(model=server)
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda text: client.text_classification(text, top_k=3), texts)]
    assert [answer[0].label for answer in answers] == [each.label for each in expected]
    assert [len(answer) for answer in answers] == [3] * len(texts)
    assert [answer[0].score for answer in answers] == pytest.approx([e.score for e in expected])


def test_huggingface_lists(server, texts, expected):
    answers = [row for part in chunks(texts) for row in post(server, "/", {"inputs": part})]
    assert [row[0]["label"] for row in answers] == [each.label for each in expected]
    for row, prediction in zip(answers, expected, strict=True):
        assert {each["label"]: each["score"] for each in row} == dict(prediction.top)


def test_huggingface_functions_to_apply(server, texts, model):
    import kdcli

    text, classifier = texts[0], kdcli.load(model)
    logits = classifier.predict_logits([text])[0].tolist()
    for function in ("softmax", "sigmoid", "none"):
        parameters = {"function_to_apply": function}
        (row,) = post(server, "/", {"inputs": text, "parameters": parameters})
        scores = {each["label"]: each["score"] for each in row}
        values = [scores[label] for label in classifier.labels]
        if function == "none":
            assert values == pytest.approx(logits)
        elif function == "softmax":
            assert sum(values) == pytest.approx(1)
        else:
            assert sum(values) != pytest.approx(1, abs=0.01)


def test_text_embeddings_inference(server, texts, expected):
    batches = [[[text] for text in part] for part in chunks(texts)]
    rows = [row for part in batches for row in post(server, "/predict", {"inputs": part})]
    assert [row[0]["label"] for row in rows] == [each.label for each in expected]
    alone = post(server, "/predict", {"inputs": texts[0], "truncate": True})
    assert alone == rows[0]
    raw = post(server, "/predict", {"inputs": texts[0], "raw_scores": True})
    assert sum(each["score"] for each in raw) != pytest.approx(1, abs=0.01)


def test_kserve(server, texts, expected):
    labels, refused = [], []
    for part in chunks(texts):
        tensor = {"name": "text", "shape": [len(part)], "datatype": "BYTES", "data": part}
        document = post(server, KSERVE, {"id": "7", "inputs": [tensor]})
        assert (document["id"], document["model_name"]) == ("7", "served")
        outputs = {each["name"]: each for each in document["outputs"]}
        labels += outputs["label"]["data"]
        refused += outputs["refused"]["data"]
        assert outputs["probabilities"]["shape"] == [len(part), 17]
        assert len(outputs["probabilities"]["data"]) == 17 * len(part)
    assert labels == [each.label for each in expected]
    assert refused == [each.refused for each in expected]


def test_kserve_outputs_and_columns(server, texts):
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [[texts[0]]]}
    wanted = {"inputs": [tensor], "outputs": [{"name": "label"}]}
    assert [each["name"] for each in post(server, KSERVE, wanted)["outputs"]] == ["label"]
    described = httpx.get(f"{server}/v2/models/served").json()
    assert [each["name"] for each in described["inputs"]] == ["text", "text_pair"]
    assert len(described["parameters"]["labels"]) == 17
    assert httpx.get(f"{server}/v2/models/served/ready").json()["ready"] is True
    assert httpx.get(f"{server}/v2").json()["name"] == "kd"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v2/models/other/infer", {"inputs": []}),
        (KSERVE, {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}),
        (KSERVE, {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}),
        (KSERVE, {"inputs": [{"name": "text", "shape": [1], "datatype": "FP32", "data": ["a"]}]}),
        (KSERVE, {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
                  "outputs": [{"name": "nothing"}]}),
    ],
)  # fmt: skip
def test_kserve_refuses(server, path, content):
    done = httpx.post(server + path, json=content)
    assert done.status_code == (404 if "other" in path else 422)
    assert done.json()["error"]


def test_native(server, texts, expected):
    documents = [post(server, "/classify", {"texts": part, "top_k": 2}) for part in chunks(texts)]
    predictions = [each for document in documents for each in document["predictions"]]
    assert [each["label"] for each in predictions] == [each.label for each in expected]
    assert [each["refused"] for each in predictions] == [each.refused for each in expected]
    assert {len(each["top"]) for each in predictions} == {2}


def test_a_refused_text_s_first_label_is_out_of_scope(server, texts, expected):
    refused = [
        text
        for text, each in zip(texts, expected, strict=True)
        if each.refused and each.top[0][0] != "out_of_scope"
    ]
    assert refused, "no text is refused whose best label is another"
    (row,) = post(server, "/", {"inputs": refused[0]})
    scores = [each["score"] for each in row]
    assert row[0]["label"] == "out_of_scope"
    assert scores[0] < scores[1]
    assert scores[1:] == sorted(scores[1:], reverse=True)


def test_pairs_of_texts(tmp_path):
    seen = []
    with running(FakeClassifier(tmp_path, act=seen.extend), name="served") as server:
        seen.clear()
        pair = {"text": "a", "text_pair": "b"}
        assert post(server, "/", {"inputs": [pair, "c"]})[1][0]["label"] == "c"
        assert sorted(map(str, seen)) == ["('a', 'b')", "c"]
        seen.clear()
        # A list of two texts is a pair there, and a list of lists a batch.
        post(server, "/predict", {"inputs": ["a", "b"]})
        post(server, "/predict", {"inputs": [["a", "b"]]})
        post(server, "/classify", {"texts": [["a", "b"]]})
        tensors = [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
            for name, text in (("text", "a"), ("text_pair", "b"))
        ]
        post(server, KSERVE, {"inputs": tensors})
        assert seen == [("a", "b")] * 4


def test_multi_label(tmp_path):
    # The logits are 2 for the letters of a text and -1 for others: 0.88 and 0.27.
    (tmp_path / "kd.json").write_text(
        json.dumps({"temperature": 1.0, "thresholds": {"a": 0.2, "b": 0.9, "c": 0.5}})
    )
    classifier = FakeClassifier(tmp_path, "multi_label_classification")
    with running(classifier, name="served") as server:
        prediction = post(server, "/classify", {"texts": ["b"], "top_k": 3})["predictions"][0]
        assert (prediction["label"], prediction["labels"]) == (None, ["a"])
        # The label that is given comes first, though its probability is lower.
        (row,) = post(server, "/", {"inputs": "b"})
        assert [each["label"] for each in row] == ["a", "b", "c"]
        assert [each["score"] for each in row] == pytest.approx([0.269, 0.881, 0.269], abs=1e-3)
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["b"]}
        outputs = post(server, KSERVE, {"inputs": [tensor]})["outputs"]
        assert [each["name"] for each in outputs] == ["present", "probabilities"]
        assert outputs[0]["data"] == [True, False, False]


def test_regression(tmp_path):
    with running(FakeClassifier(tmp_path, "regression"), name="served") as server:
        assert post(server, "/", {"inputs": "four"}) == [[{"label": "score", "score": 4.0}]]
        assert post(server, "/predict", {"inputs": "four"}) == [{"label": "score", "score": 4.0}]
        prediction = post(server, "/classify", {"texts": ["four"]})["predictions"][0]
        assert (prediction["label"], prediction["score"]) == (None, 4.0)
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["four"]}
        (output,) = post(server, KSERVE, {"inputs": [tensor]})["outputs"]
        assert (output["name"], output["data"]) == ("score", [4.0])


def test_openapi_describes_each_request_with_examples_that_work(server):
    document = httpx.get(f"{server}/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path in ("/", "/predict", "/classify", "/v2/models/{model_name}/infer"):
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]
        assert body["schema"]["$ref"].rpartition("/")[2] in schemas
        for example in body["examples"].values():
            post(server, path.replace("{model_name}", "served"), example["value"])
    references = json.dumps(document).split('"#/components/schemas/')[1:]
    assert {each.partition('"')[0] for each in references} <= schemas.keys()
