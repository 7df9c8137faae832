"""The owner's three commands against a Hub on loopback, as a user types them."""

import json
import os
from pathlib import Path

import forked
import pytest
from datasets import ClassLabel, Dataset
from hub_server import HubServer
from huggingface_hub import ModelCard
from transformers import AutoConfig

SMALL = [
    "--set",
    "teacher.fine_tune={epochs: 2, batch_size: 16, learning_rate: 0.001}",
    "--set",
    "distill.epochs=1",
]


def clinc_like(small_data: Path, folder: Path) -> dict[str, Path]:
    """Parquet files in the shape of clinc/clinc_oos, from the small data set."""
    rows = {split: Dataset.from_csv(str(small_data / f"{split}.csv")) for split in SPLITS}
    names = sorted({"oos" if n == "out_of_scope" else n for n in rows["train"]["intent"]})
    classes = ClassLabel(names=names)
    files = {}
    for split, data in rows.items():
        labels = [names.index("oos" if n == "out_of_scope" else n) for n in data["intent"]]
        path = folder / f"{split}.parquet"
        named = data.remove_columns("intent").add_column("intent", labels, feature=classes)
        named.to_parquet(str(path))
        files[f"plus/{split}-00000-of-00001.parquet"] = path
    readme = folder / "README.md"
    readme.write_text(
        "---\nconfigs:\n- config_name: plus\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: plus/{s}-*\n" for s in SPLITS)
        + "---\n"
    )
    return files | {"README.md": readme}


SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def hub(tiny_backbone, small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinc")
    with HubServer() as server:
        weights = {path.name: path for path in tiny_backbone.iterdir()}
        server.add_repo(
            "model", "google-bert/bert-base-uncased", weights, aliases=("bert-base-uncased",)
        )
        server.add_repo("dataset", "clinc/clinc_oos", clinc_like(small_data, folder))
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def kd(hub, place):
    outside = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}

    def run(*arguments, **changes):
        env = {**outside, **hub.env(), "HF_HOME": str(place / "hf"), **changes}
        return forked.kd(*arguments, cwd=place, env=env)

    return run


@pytest.fixture(scope="module")
def distilled(kd):
    return kd("distill", "clinc_plus", *SMALL, "--json")


def test_distill_takes_teacher_and_data_from_the_hub(distilled, place):
    assert distilled.returncode == 0, distilled.stderr
    document = json.loads(distilled.stdout)
    assert [m["name"] for m in document["models"]] == ["teacher", "student"]
    assert "out_of_scope_recall" in document["models"][1]["splits"]["test"]
    config = AutoConfig.from_pretrained(place / document["student"])
    assert config.model_type == "distilbert"
    assert config.num_hidden_layers == 2


def test_the_card_names_teacher_and_data_by_their_hub_ids(distilled, place):
    card = ModelCard.load(place / "runs/kd-distilbert-clinc/student/README.md")
    assert card.data.base_model == "google-bert/bert-base-uncased"
    assert card.data.datasets == ["clinc/clinc_oos"]
    assert "generated_from_trainer" in card.data.tags


def test_a_finished_run_needs_no_hub(distilled, kd):
    again = kd("distill", "clinc_plus", *SMALL, HF_ENDPOINT="http://127.0.0.1:9")
    assert again.returncode == 0, again.stderr
    assert "student: reused" in again.stderr


def test_init_student_follows_the_old_name(kd, place):
    done = kd("init-student", "bert-base-uncased", "--drop-every", "2")
    assert done.returncode == 0, done.stderr
    assert AutoConfig.from_pretrained(place / "bert-base-uncased-student").num_hidden_layers == 2


def test_push_arrives_byte_for_byte_in_one_commit(distilled, kd, hub, place):
    done = kd("card", "--push", "wmduggan41/kd-distilBERT-clinc")
    assert done.returncode == 0, done.stderr
    arrived = hub.repo("model", "wmduggan41/kd-distilBERT-clinc")
    student = place / "runs/kd-distilbert-clinc/student"
    sent = {path.name: path.read_bytes() for path in student.iterdir()}
    assert {name: arrived.files[name] for name in sent} == sent
    assert len([c for c in arrived.commits if "README.md" in c.paths]) == 1


def test_pushing_the_same_again_makes_no_commit(distilled, kd, hub):
    kd("card", "--push", "wmduggan41/kd-distilBERT-clinc")
    before = len(hub.repo("model", "wmduggan41/kd-distilBERT-clinc").commits)
    done = kd("card", "--push", "wmduggan41/kd-distilBERT-clinc")
    assert done.returncode == 0, done.stderr
    assert len(hub.repo("model", "wmduggan41/kd-distilBERT-clinc").commits) == before


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["init-student", "owner/nothing"], {}, 2, "no such repository: the model owner/nothing"),
        (["init-student", "owner/other"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 3, "reached"),
        (["card", "--push", "wmduggan41/x"], {"HF_TOKEN": "hf_wrong"}, 2, "token"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(distilled, kd, arguments, environment, code, says):
    done = kd(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_shows_card_and_files_and_publishes_nothing(distilled, kd, hub):
    before = len(hub.requests)
    done = kd("card", "--push", "wmduggan41/dry", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["files"]["model.safetensors"] > 10_000
    assert document["text"].startswith("---\n")
    assert len(hub.requests) == before
    plain = kd("card", "--push", "wmduggan41/dry", "--dry-run").stdout
    assert "model.safetensors" in plain
    assert "pipeline_tag: text-classification" in plain


def test_a_branch_a_pull_request_and_a_private_repository(distilled, kd, hub):
    name = "wmduggan41/corners"
    assert kd("card", "--push", name, "--private", "-m", "First").returncode == 0
    repo = hub.repo("model", name)
    assert repo.private
    assert repo.commits[-1].message == "First"
    done = kd("card", "--push", "wmduggan41/other", "--revision", "trial")
    assert done.returncode == 0, done.stderr
    other = hub.repo("model", "wmduggan41/other")
    assert "model.safetensors" in other.branches["trial"].files
    assert "model.safetensors" not in other.files
    done = kd("card", "--push", "wmduggan41/other", "--create-pr", "--json")
    assert json.loads(done.stdout)["url"].endswith("/discussions/1"), done.stderr
    assert "model.safetensors" in other.branches["refs/pr/1"].files
    assert "model.safetensors" not in other.files


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [(403, 2, "the token is missing, wrong, or lacks permission"), (500, 3, "injected 500")],
)
def test_a_push_that_fails_is_one_sentence_and_goes_the_second_time(
    distilled, kd, hub, status, code, says
):
    name = f"wmduggan41/fails-{status}"
    hub.fail_next("POST", rf"/api/models/{name}/commit/", status, times=20)
    try:
        done = kd("card", "--push", name)
    finally:
        hub.faults.clear()
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.count("Error:") == 1
    assert hub.token not in done.stdout + done.stderr
    assert kd("card", "--push", name).returncode == 0


def test_metadata_that_the_hub_refuses_is_told_before_anything_is_sent(distilled, kd, hub, place):
    changed = kd(
        "distill", "clinc_plus", *SMALL, "--set", "card.license=mine", "-o", "runs/licence"
    )
    assert changed.returncode == 0, changed.stderr
    done = kd("card", "runs/licence", "--push", "wmduggan41/licence")
    assert done.returncode == 2
    assert '"license" must be one of' in done.stderr
    assert ("model", "wmduggan41/licence") not in hub.repos


def test_pushed_pulled_and_measured_again_the_figures_are_the_same(distilled, kd, place):
    done = kd("card", "runs/kd-distilbert-clinc", "--push", "wmduggan41/round-trip")
    assert done.returncode == 0, done.stderr
    run = "runs/kd-distilbert-clinc"
    data = ["--data", "clinc/clinc_oos", "--config", "plus", "--label", "intent"]
    data += ["--split", "test", "--out-of-scope", "oos"]
    found = [
        json.loads(kd("evaluate", model, *data, "--json").stdout)["models"][0]["splits"]["test"]
        for model in (f"{run}/student", "wmduggan41/round-trip")
    ]
    assert found[0] == found[1]
    recorded = json.loads((place / run / "evaluation.json").read_text())["models"][1]
    assert found[1]["accuracy"] == recorded["splits"]["test"]["accuracy"]
