"""The JavaScript client of the Hugging Face inference API, from npm, gets the same labels."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from serving.running import running

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).with_name("clients")
KEY = "the-key-of-a-client"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the client and its script."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("the client needs node and npm")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    (folder / "package.json").write_text("{}")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "@huggingface/inference"],
        cwd=folder,
        check=True,
    )
    return folder


def test_huggingface_inference_in_node(site, model, texts, expected):
    with running(model, name="served", api_keys=[KEY]) as address:
        done = subprocess.run(
            ["node", "inference.mjs", address, KEY],
            input=json.dumps({"texts": texts, "top_k": 3}),
            cwd=site,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [answer[0]["label"] for answer in answers] == [each.label for each in expected]
    assert {len(answer) for answer in answers} == {3}
    scores = [answer[0]["score"] for answer in answers]
    assert scores == pytest.approx([each.score for each in expected])
