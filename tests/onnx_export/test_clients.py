"""Clients that nobody here wrote load an exported folder by its file names and give its labels.

transformers.js and optimum are installed from npm and PyPI. The texts are short enough to be read
whole, since clients truncate differently: see
`test_transformers_js_drops_the_final_sep_of_a_truncated_text`.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import venv
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from models.architectures import spread
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import kdcli
from kdcli.runtime import Classifier

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).with_name("clients")
FILES = {"fp32": "model.onnx", "q8": "model_quantized.onnx"}
LONG = " ".join(["my printer is broken and the order never arrived"] * 12)


@pytest.fixture(scope="module")
def texts(exported, help_desk):
    """Texts of at most the 64 tokens that the model reads."""
    tokenizer = AutoTokenizer.from_pretrained(exported)
    texts = list(help_desk["test"]["text"])
    return [t for t in texts if len(tokenizer(t, verbose=False)["input_ids"]) <= 64][:40]


@pytest.fixture(scope="module")
def model(exported, small_data, texts, tmp_path_factory):
    """The model of `exported`, with weights that give texts many labels, also in int8."""
    folder, source = tmp_path_factory.mktemp("clear"), exported.parent / "student"
    network = AutoModelForSequenceClassification.from_pretrained(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        # As initialized, a text's first token hardly depends on the others.
        for weight in network.parameters():
            if weight.dim() == 2:
                weight.mul_(10)
    spread(network, [tokenizer(text, return_tensors="pt") for text in texts], remembers=False)
    network.save_pretrained(folder / "student")
    tokenizer.save_pretrained(folder / "student")
    return kdcli.export(
        folder / "student",
        folder / "exported",
        precision="int8",
        max_drop=["accuracy=1"],
        data=small_data,
        label="intent",
    )


def check_labels(labels, model, texts, dtype):
    """Compare labels with those of the runtime, which runs the same file one text at a time."""
    classifier = Classifier(model, file=FILES[dtype])
    expected = [classifier.predict([text])[0].label for text in texts]
    assert len(set(expected)) > 8
    share = np.mean([a == b for a, b in zip(labels, expected, strict=True)])
    assert share >= (1 if dtype == "fp32" else 0.95), f"{share:.1%} of the labels are the same"


@pytest.fixture(scope="module")
def site(model, tmp_path_factory):
    """A folder with transformers.js, its scripts and the model."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("transformers.js needs node and npm")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    shutil.copytree(model, folder / "models/exported")
    (folder / "package.json").write_text("{}")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "@huggingface/transformers"],
        cwd=folder,
        env=os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"},
        check=True,
    )
    yield folder
    shutil.rmtree(folder / "node_modules")


def run_in_node(site):
    done = subprocess.run(["node", "node.mjs"], cwd=site, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_in_chromium(site):
    """Open the page in a browser that reaches nothing but a server of the site's files."""
    if not shutil.which("chromium"):
        pytest.skip("there is no chromium")
    results = queue.Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self):
            results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        browser = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
             f"--user-data-dir={site / 'profile'}", url],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            result = results.get(timeout=300)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    assert "error" not in result, result["error"]
    assert any(each.endswith(".wasm") for each in result["urls"])
    assert [each for each in result["urls"] if not each.startswith(url)] == []
    return result


@pytest.mark.parametrize(
    ("run", "dtype"), [(run_in_node, "fp32"), (run_in_node, "q8"), (run_in_chromium, "q8")]
)
def test_transformers_js_gives_the_labels_of_the_runtime(run, dtype, site, model, texts):
    request = {"dtype": dtype, "texts": texts, "long": LONG}
    (site / "request.json").write_text(json.dumps(request))
    answers = run(site)["answers"]
    check_labels([answer[0]["label"] for answer in answers], model, texts, dtype)
    predictions = Classifier(model, file=FILES[dtype]).predict(texts, top_k=1000)
    # Quantized activations are rounded a little differently in WebAssembly.
    tolerance = 1e-3 if dtype == "fp32" else 0.03
    for answer, prediction in zip(answers, predictions, strict=True):
        scores = {each["label"]: each["score"] for each in answer}
        assert scores == pytest.approx(dict(prediction.top), abs=tolerance)


def test_transformers_js_drops_the_final_sep_of_a_truncated_text(site, model):
    """So the probabilities of a long text differ from those in Python, and its label may.

    If this fails, transformers.js truncates as Python does: compare long texts above, too.
    """
    (site / "request.json").write_text(json.dumps({"dtype": "fp32", "texts": [], "long": LONG}))
    tokenizer = AutoTokenizer.from_pretrained(model)
    whole = tokenizer(LONG, verbose=False)["input_ids"]
    in_python = tokenizer(LONG, truncation=True)["input_ids"]
    assert in_python == [*whole[:63], tokenizer.sep_token_id]
    assert run_in_node(site)["ids"] == whole[:64]


@pytest.mark.parametrize("dtype", FILES)
def test_raw_onnxruntime_takes_what_the_tokenizer_of_transformers_gives(model, texts, dtype):
    session = onnxruntime.InferenceSession(str(model / "onnx" / FILES[dtype]))
    tokenizer, config = AutoTokenizer.from_pretrained(model), AutoConfig.from_pretrained(model)
    inputs = [dict(tokenizer(text, return_tensors="np")) for text in texts]
    best = [int(session.run(["logits"], each)[0].argmax()) for each in inputs]
    check_labels([config.id2label[index] for index in best], model, texts, dtype)


def test_ortmodel_of_optimum_finds_the_files_by_name(model, texts, tmp_path):
    """In the last transformers that optimum takes, with the torch and onnxruntime of this one."""
    venv.create(tmp_path / "venv", with_pip=True)
    subprocess.run(
        [tmp_path / "venv/bin/python", "-m", "pip", "install", "-q", "--no-deps",
         "--target", tmp_path / "packages", "optimum", "optimum-onnx", "transformers<4.58",
         "huggingface_hub<1", "tokenizers<0.23"],
        check=True,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, SCRIPTS / "ortmodel.py", model],
        input=json.dumps({"files": FILES, "texts": texts}),
        env=os.environ | {"PYTHONPATH": str(tmp_path / "packages")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for dtype, labels in json.loads(done.stdout).items():
        check_labels(labels, model, texts, dtype)
