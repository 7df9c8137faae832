"""A model that can't be used: a sentence that says what is wrong, exit 2, and nothing written."""

import json
import re
import shutil

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from helpers import kd
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)

WEIGHTS = "model.safetensors"
FINE_TUNE = "teacher.fine_tune={epochs: 1, batch_size: 40, learning_rate: 0.001}"
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working folder; what the commands would leave lies in it."""
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def own(tiny_teacher, tmp_path):
    """A copy of the tiny teacher to spoil."""
    return shutil.copytree(tiny_teacher, tmp_path / "own")


@pytest.fixture
def recipe(small_data, tiny_teacher, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\n"
        f"data: {{dataset: {small_data}, label: intent}}\n"
        f"teacher: {{model: {tiny_teacher}}}\n"
        "distill: {epochs: 1, batch_size: 40, learning_rate: 0.001}\n"
        "evaluate: {latency_texts: 1, baselines: []}\n"
    )
    return path


@pytest.fixture
def commands(recipe, small_data):
    """Every command that reads a model, as a user types it."""
    return {
        "init-student": lambda model: ["init-student", model, "-o", "out"],
        "evaluate": lambda model: ["evaluate", model, "--data", str(small_data), "--label",
                                   "intent", "-o", "figures.json"],
        "distill": lambda model: ["distill", str(recipe), "--set", f"teacher.model={model}"],
        "distill into": lambda model: ["distill", str(recipe), "--set", f"student.model={model}",
                                       "--set", FINE_TUNE],
        "fine-tune-teacher": lambda model: ["fine-tune-teacher", str(recipe), "--set", FINE_TUNE,
                                            "--set", f"teacher.model={model}"],
    }  # fmt: skip


def assert_refused(done, says, place):
    error = done.stderr.strip().splitlines()[-1]
    assert done.exit_code == 2, done.output
    assert re.search(says, error), error
    assert error.startswith("Error: ")
    assert "bug" not in error
    assert "Traceback" not in done.output
    made = {path.name for path in place.rglob("*")}
    assert not made & {"out", ".out.new", "figures.json", WEIGHTS, "evaluation.json"}


def remove(*names):
    def spoil(folder):
        for name in names:
            for path in folder.glob(name):
                path.unlink()

    return spoil


def rewrite(name, change):
    def spoil(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoil


def configure(name="config.json", **changes):
    def spoil(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return spoil


def change_tensor(name, change):
    def spoil(folder):
        tensors = load_file(folder / WEIGHTS)
        save_file({**tensors, name: change(tensors[name])}, folder / WEIGHTS)

    return spoil


def pickle_weights(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def shard(folder):
    tensors = load_file(folder / WEIGHTS)
    first = dict(list(tensors.items())[:5])
    rest = {key: tensors[key] for key in tensors.keys() - first}
    (folder / WEIGHTS).unlink()
    index = {}
    for i, part in enumerate((first, rest), start=1):
        name = f"model-{i:05}-of-00002.safetensors"
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def lose_a_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def hide_a_pickle_in_the_index(folder):
    shard(folder)
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(index.read_text().replace("-00002.safetensors", "-00002.bin"))


def number_labels_from_1(folder):
    names = [*json.loads((folder / "config.json").read_text())["id2label"].values()]
    configure(id2label={str(i): name for i, name in enumerate(names, start=1)},
              label2id={name: i for i, name in enumerate(names, start=1)})(folder)  # fmt: skip


def name_a_label_twice(folder):
    names = [*json.loads((folder / "config.json").read_text())["id2label"].values()]
    names[3] = names[2]
    configure(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})(folder)


def add_tokens(*tokens, **special):
    """To the tokenizer alone: the embeddings have no rows for them."""

    def spoil(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([*tokens])
        tokenizer.add_special_tokens(special)
        tokenizer.save_pretrained(folder)

    return spoil


def become_a_vit(folder):
    remove("*")(folder)
    config = ViTConfig(**TINY, intermediate_size=16, image_size=16, patch_size=8)
    ViTForImageClassification(config).save_pretrained(folder)


def become_a_listener(folder):
    remove(WEIGHTS, "config.json")(folder)
    shape = {"conv_dim": (16,), "conv_stride": (5,), "conv_kernel": (10,), "intermediate_size": 16}
    config = Wav2Vec2Config(**TINY, **shape, num_feat_extract_layers=1,
                            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)  # fmt: skip
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)


SPOILT = {
    "no config": (remove("config.json"), "own is no model folder: it has no config.json"),
    "no tokenizer": (remove("tokenizer*"), "own has no tokenizer .*tokenizer.save_pretrained"),
    "a broken tokenizer": (rewrite("tokenizer.json", lambda b: b[:-100]), "own has no tokenizer"),
    "no weights": (remove(WEIGHTS), "own has no model.safetensors"),
    "cut weights": (rewrite(WEIGHTS, lambda b: b[:-1000]), f"{WEIGHTS} is damaged"),
    "cut header": (rewrite(WEIGHTS, lambda b: b[:500]), f"{WEIGHTS} is damaged"),
    "empty weights": (rewrite(WEIGHTS, lambda b: b""), f"{WEIGHTS} is damaged"),
    "garbage": (rewrite(WEIGHTS, lambda b: b[:8] + b"\xff" * 99), f"{WEIGHTS} is damaged"),
    "a huge header": (rewrite(WEIGHTS, lambda b: b"\xff" * 8 + b[8:]), f"{WEIGHTS} is damaged"),
    "a lost shard": (lose_a_shard, "model-00002-of-00002.safetensors"),
    "a pickle among the shards": (hide_a_pickle_in_the_index, "that are no .safetensors files"),
    "a pickle": (pickle_weights, r"own are a pickle \(pytorch_model.bin\).*--allow-pickle"),
    "not a number": (
        change_tensor("bert.encoder.layer.1.output.dense.weight", lambda t: t / 0 * 0),
        "bert.encoder.layer.1.output.dense.weight holds values that are no finite numbers",
    ),
    "infinite": (
        change_tensor("bert.embeddings.LayerNorm.bias", lambda t: t + float("inf")),
        "bert.embeddings.LayerNorm.bias holds values that are no finite numbers",
    ),
    "another shape": (
        change_tensor("bert.pooler.dense.weight", lambda t: t[:5].clone()),
        r"bert.pooler.dense.weight has the shape \(5, 32\), .* should have \(32, 32\)",
    ),
    "labels from 1": (number_labels_from_1, r"own/config.json: id2label .*1, 2, .* from 0 to 16"),
    "a label twice": (name_a_label_twice, r"own/config.json: id2label gives two outputs the name"),
    "tokens without rows": (
        add_tokens("parcel", "zzz"),
        r"own: the tokenizer's token 'zzz' has the id 600, .* 600 .*resize_token_embeddings",
    ),
    "padding without a row": (add_tokens(pad_token="<pad>"), r"own: the tokenizer's token '<pad>'"),
    "quantised": (
        configure(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"own is quantised \(quantization_config .*\)",
    ),
    "code for the model": (
        configure(auto_map={"AutoModelForSequenceClassification": "mine.Model"}),
        r"config.json asks for .*auto_map",
    ),
    "code for the tokenizer": (
        configure("tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Tokens", None]}),
        r"tokenizer_config.json asks for .*auto_map",
    ),
    "an image model": (become_a_vit, "own: a model of type vit is no text classifier"),
    "a speech model": (become_a_listener, "own: a model of type wav2vec2 is no text"),
}  # fmt: skip


# A pretrained student gets labels of its own.
FINE = {("labels from 1", "distill into"), ("a label twice", "distill into")}


@pytest.mark.parametrize("command", ["init-student", "evaluate", "distill", "distill into"])
@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_model_is_refused_by_every_command(own, commands, place, name, command):
    spoil, says = SPOILT[name]
    spoil(own)
    (own / "mine.py").write_text(f"open({str(place / 'out')!r}, 'w')")
    done = kd(*commands[command](str(own)))
    if (name, command) in FINE:
        assert done.exit_code == 0, done.output
    else:
        assert_refused(done, says, place)


def test_a_special_token_that_no_text_needs_takes_no_row(own, commands):
    add_tokens(mask_token="<image>")(own)
    done = kd(*commands["evaluate"](str(own)))
    assert done.exit_code == 0, done.output


def test_a_recipe_can_t_allow_pickles(own, commands, place):
    pickle_weights(own)
    for key in ("allow_pickle", "teacher.allow_pickle"):
        done = kd(*commands["distill"](str(own)), "--set", f"{key}=true")
        assert_refused(done, "allow_pickle is not a key", place)


@pytest.mark.parametrize("command", ["init-student", "evaluate", "distill", "fine-tune-teacher"])
def test_a_pickle_is_read_where_that_is_asked_and_never_written(own, commands, place, command):
    pickle_weights(own)
    done = kd(*commands[command](str(own)), "--allow-pickle")
    assert done.exit_code == 0, done.output
    assert not list(place.rglob("*.bin"))
    if command == "evaluate":
        size = (own / "pytorch_model.bin").stat().st_size / 1e6
        assert json.loads((place / "figures.json").read_text())["models"][0]["megabytes"] == size
    else:
        assert list(place.rglob(WEIGHTS))


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("command", ["init-student", "evaluate", "distill", "distill into"])
def test_a_pickle_that_would_run_code_runs_none(own, commands, place, command, zipped):
    (own / WEIGHTS).unlink()
    told = {"bert.pooler.dense.weight": Malice(place / "out")}
    torch.save(told, own / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    done = kd(*commands[command](str(own)), "--allow-pickle")
    assert_refused(done, "pytorch_model.bin holds something other than weights", place)


def test_code_beside_a_pickle_stays_unread_too(own, commands, place):
    """By another name in config.json, transformers would read it in spite of use_safetensors."""
    pickle_weights(own)
    (own / "pytorch_model.bin").rename(own / "adapter_model.bin")
    configure(transformers_weights="adapter_model.bin")(own)
    assert_refused(kd(*commands["evaluate"](str(own))), f"own has no {WEIGHTS}", place)


def with_labels(folder, names):
    """Give a classifier other labels, and a head for as many."""
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(
        folder, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    model.save_pretrained(folder)


@pytest.mark.parametrize("command", ["evaluate", "distill"])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            lambda all_: all_[:5],
            "doesn't know the label 'exchange_size': the data has .* the model",
        ),
        (lambda all_: ["LABEL_0", "LABEL_1"], "doesn't know the label .* the model LABEL_0, LABEL"),
    ],
)
def test_a_model_of_too_few_labels_is_refused(own, commands, place, labels, names, says, command):
    with_labels(own, names(labels))
    assert_refused(kd(*commands[command](str(own))), says, place)


@pytest.mark.parametrize("names", [lambda all_: all_[::-1], lambda all_: [*all_, "x", "y"]])
def test_labels_in_another_order_and_more_of_them_are_no_matter(
    own, commands, place, labels, names
):
    with_labels(own, names(labels))
    done = kd(*commands["distill"](str(own)))
    assert done.exit_code == 0, done.output
    student = json.loads((place / "runs/tiny/student/config.json").read_text())
    assert list(student["id2label"].values()) == names(labels)


def test_labels_without_names_are_taken_in_the_datas_order_and_it_is_said(
    own, commands, place, labels, small_data
):
    with_labels(own, [f"LABEL_{i}" for i in range(17)])
    assert_refused(kd(*commands["distill"](str(own))), "no names .*id2label", place)
    splits = {file.stem: Dataset.from_csv(str(file)) for file in small_data.glob("*.csv")}
    names = ClassLabel(names=labels[::-1])
    ordered = DatasetDict({n: split.cast_column("intent", names) for n, split in splits.items()})
    ordered.save_to_disk("data")
    done = kd(*commands["distill"](str(own)), "--set", "data.dataset=data")
    assert done.exit_code == 0, done.output
    assert "labels have no names: they are taken in the data's order" in done.stderr
    student = json.loads((place / "runs/tiny/student/config.json").read_text())
    assert list(student["id2label"].values()) == labels[::-1]


def test_shards_are_read(own, commands, tiny_teacher, place):
    shard(own)
    assert kd(*commands["init-student"](str(own))).exit_code == 0
    kd("init-student", tiny_teacher, "-o", "whole")
    assert load_file(place / "out" / WEIGHTS).keys() == load_file(place / "whole" / WEIGHTS).keys()


def test_a_student_with_tokens_of_its_own_learns_from_the_teachers_answers(
    help_desk, commands, place, tmp_path
):
    """Outputs are of texts, so that nothing hangs on how a model cuts them."""
    folder = tmp_path / "bytes"
    trained = ByteLevelBPETokenizer()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(
        help_desk["train"]["text"], vocab_size=400, special_tokens=marks, show_progress=False
    )
    folder.mkdir()
    trained.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=60
    )
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(**TINY, vocab_size=len(tokenizer), intermediate_size=32,
                           max_position_embeddings=62, type_vocab_size=1)  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    done = kd(*commands["distill into"](str(folder)))
    assert done.exit_code == 0, done.output
    assert "no smaller than its teacher" not in done.stderr
    answer = pipeline("text-classification", str(place / "runs/tiny/student"))("where is my parcel")
    assert "_" in answer[0]["label"]


def test_a_student_larger_than_its_teacher_is_said_and_made(tokenizer, config, commands, tmp_path):
    wide = type(config)(**{**config.to_dict(), "hidden_size": 64})
    BertModel(wide).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    done = kd(*commands["distill into"](str(tmp_path / "wide")))
    assert done.exit_code == 0, done.output
    assert re.search(
        r"The student is no smaller than its teacher: 0.\d+ M parameters to 0.0", done.stderr
    )


@pytest.mark.parametrize("command", ["evaluate", "distill"])
def test_a_model_that_always_answers_the_same_is_named(own, commands, labels, command):
    change_tensor("classifier.bias", lambda t: t + 99 * (torch.arange(17) == 3))(own)
    done = kd(*commands[command](str(own)))
    assert done.exit_code == 0, done.output
    name = "own" if command == "evaluate" else "student"
    assert f"{name} predicts {labels[3]} for every validation text" in done.stderr


def test_a_wrong_model_costs_a_finished_run_nothing(own, commands, tiny_teacher, place):
    assert kd(*commands["distill"](str(tiny_teacher))).exit_code == 0
    change_tensor("classifier.bias", lambda t: t + float("nan"))(own)
    assert kd(*commands["distill"](str(own))).exit_code == 2
    again = kd(*commands["distill"](str(tiny_teacher)))
    assert again.stderr.count("reused") == 8, again.stderr
