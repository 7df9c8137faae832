"""The command on a machine that fails it: one sentence, a way out, and nothing lost."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import forked
import helpers
import pandas as pd
import pytest

from kdcli.pipeline.runner import run_pipeline
from kdcli.progress import SilentReporter
from kdcli.recipe.loading import load_recipe
from kdcli.safe_files import sha256_of_file

FIT = "{epochs: %d, batch_size: 16, learning_rate: 1e-3}"
# Shown in a table, in a card, in JSON; and trained on.
LABELS = {"cancel_order": "annuler_la_commande_é", "track_order": "追踪"}


@pytest.fixture(scope="module")
def recipe(tiny_backbone, small_data, make_once):
    """A recipe of seconds, whose data and label names aren't all ASCII."""
    return make_once("faults", partial(_write_recipe, tiny_backbone, small_data)) / "tiny.yaml"


def _write_recipe(tiny_backbone, small_data, folder):
    data = shutil.copytree(small_data, folder / "data")
    for file in data.iterdir():
        rows = pd.read_csv(file)
        changed = rows["intent"].isin(LABELS)
        rows.loc[changed, "text"] += " ça va ?"
        rows["intent"] = rows["intent"].replace(LABELS)
        rows.to_csv(file, index=False)
    (folder / "tiny.yaml").write_text(
        f"name: tiny\ndata: {{dataset: {data}, label: intent}}\n"
        f"teacher:\n  model: {tiny_backbone}\n  fine_tune: {FIT % 1}\n"
        f"distill: {FIT % 4}\n"
        "evaluate: {latency_texts: 3, baselines: [], out_of_scope: annuler_la_commande_é}\n"
    )


def command(*arguments):
    return [sys.executable, "-m", "kdcli", *map(str, arguments)]


def kd(*arguments, env=(), within=(), **options):
    """Run `kd` in an interpreter of its own: where it matters how that starts."""
    environment = {**os.environ, **dict(env)}
    environment = {name: value for name, value in environment.items() if value is not None}
    options = {"capture_output": True, "text": True, "timeout": 600, **options}
    return subprocess.run([*within, *command(*arguments)], env=environment, **options)


RUN = "import runpy; runpy.run_module('kdcli', run_name='__main__', alter_sys=True)"


def after(code, *arguments):
    """Arguments for `forked` that run `kd` after a line of Python.

    The text streams of the fork still believe that their files can seek, so they are opened anew.
    """
    return ("-c", f"{code}\n{REOPEN}\n{RUN}", *arguments)


def check_error(done, code, *says):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Internal error in kd" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert done.stderr.count("Error: ") == 1
    for words in says:
        assert words in last


def outcome(run):
    """What must not depend on the machine's mishaps."""
    models = json.loads((run / "evaluation.json").read_text())["models"]
    weights = {
        name: sha256_of_file(run / name / "model.safetensors") for name in ("teacher", "student")
    }
    return weights, {model["name"]: model["splits"] for model in models}


@pytest.fixture(scope="module")
def expected(recipe, make_once):
    """What an unbroken run comes to."""

    def fill(folder):
        done = forked.kd("distill", recipe, "-o", folder / "run")
        assert done.returncode == 0, done.stderr

    return outcome(make_once("unbroken", fill) / "run")


class Disk:
    """A file system of a few megabytes that only processes started `within` see under its path.

    Attributes:
        path: Where they see it.
        outside: Where the test sees it.
        within: The start of a command that runs within.
        enter: Python code after which a fork is within.
    """

    def __init__(self, path, options):
        script = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && exec sleep 600'
        start = ["unshare", "-rm", "sh", "-c", script, "sh", options, str(path)]
        self.path = path
        self.holder = subprocess.Popen(
            start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if self.holder.stdout.readline() != "mounted\n":
            pytest.skip(f"no file system can be mounted here: {self.holder.stderr.read().strip()}")
        target = f"--target={self.holder.pid}"
        self.within = ["nsenter", target, "--user", "--mount", "--preserve-credentials", "--"]
        spaces = [f"/proc/{self.holder.pid}/ns/{name}" for name in ("user", "mnt")]
        # A fork has one thread, so it may change its user namespace.
        self.enter = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for space in [os.open(path, os.O_RDONLY) for path in {spaces!r}]:
    if libc.setns(space, 0):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(space)
"""
        self.outside = Path(f"/proc/{self.holder.pid}/root{path}")

    def fill(self):
        """Leave no room."""
        try:
            with (self.outside / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
        except OSError:
            pass

    def close(self):
        self.holder.kill()
        self.holder.communicate()


@pytest.fixture
def disk(tmp_path):
    if not all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        pytest.skip("unshare, nsenter and mount are needed to mount a file system")
    disks = []

    def mount(options, path=None):
        path = path or tmp_path / f"disk-{len(disks)}"
        path.mkdir(exist_ok=True)
        disks.append(Disk(path, options))
        return disks[-1]

    yield mount
    for mounted in disks:
        mounted.close()


def test_a_read_only_output_folder(recipe, disk):
    place = disk("size=1m,ro")
    done = forked.python(*after(place.enter, "distill", recipe, "-o", place.path / "run"))
    check_error(done, 3, f"{place.path}/run: Read-only file system", "--output")


def test_too_little_disk_is_said_before_the_training(recipe, disk):
    place = disk("size=1m")
    done = forked.python(*after(place.enter, "distill", recipe, "-o", place.path / "run"))
    check_error(done, 3, "has room for", "training needs up to", "Make room")
    assert not list(place.outside.glob("run/.work/teacher/*/checkpoint-*"))


def test_a_disk_that_fills_up_in_the_middle(recipe, disk, expected):
    place = disk("size=16m")
    run = place.outside / "run"
    go = ("distill", recipe, "-o", place.path / "run", "--checkpoint-every", "1")
    with forked.start(*after(place.enter, *go)) as process:
        while not list(run.glob(".work/distill/*/checkpoint-*/whole.json")):
            assert process.poll() is None
            time.sleep(0.01)
        place.fill()
        said = process.stderr.read()
    check_error(subprocess.CompletedProcess(go, process.wait(), "", said), 3, "Make room")
    kept = {seal.parent for seal in run.glob(".work/distill/*/checkpoint-*/whole.json")}
    assert kept
    for checkpoint in kept:
        sizes = json.loads((checkpoint / "whole.json").read_text())["sizes"]
        assert {n: (checkpoint / n).stat().st_size for n in sizes} == sizes
    (place.outside / "filler").unlink()
    again = forked.python(*after(place.enter, *go))
    assert again.returncode == 0, again.stderr
    assert "Resuming from checkpoint at step" in again.stderr
    assert "teacher: reused" in again.stderr
    assert outcome(run) == expected


# The manifest, the data's cache, a checkpoint.
@pytest.mark.parametrize("size", [1_000, 20_000, 300_000])
def test_a_limit_on_the_size_of_files(recipe, tmp_path, expected, size):
    arguments = ("fine-tune-teacher", recipe, "-o", tmp_path / "run", "--checkpoint-every", "3")
    # A cache of its own: what is in it already needs no writing.
    env = {"HF_HOME": str(tmp_path / "cache")}
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    check_error(forked.python(*after(limit, *arguments), env=os.environ | env), 3, "ulimit -f")
    assert not (tmp_path / "run/teacher").exists()


@pytest.mark.parametrize("files", [5, 6])
def test_too_few_file_handles(recipe, tmp_path, files):
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files))
    done = kd("distill", recipe, "-o", tmp_path / "run", preexec_fn=limit)
    check_error(done, 3, "Too many open files", "ulimit -n")


@pytest.fixture
def large_batches(small_data, tmp_path):
    """What makes the teacher's first step ask for more than a gigabyte."""
    data = shutil.copytree(small_data, tmp_path / "large")
    header, *rows = (data / "train.csv").read_text().splitlines(keepends=True)
    (data / "train.csv").write_text("".join([header, *rows * 100]))
    size = "teacher.fine_tune.batch_size=12000"
    return ["--set", f"data.dataset={data}", "--set", "evaluate.out_of_scope=null", "--set", size]


@pytest.mark.parametrize("begun", [False, True], ids=["at the start", "in training"])
def test_too_little_memory(recipe, tmp_path, large_batches, begun):
    go = ("-m", "kdcli", "distill", recipe, "-o", tmp_path / "run", *large_batches)
    with forked.start(*go) as process:
        process.stderr.readline()
        while begun and not (tmp_path / "run/logs/teacher.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.01)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        # Some room: where there is none, Python waits for ever for a thread that can't begin.
        most = pages * resource.getpagesize() + 200_000_000
        resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))
        said = process.stderr.read()
    done = subprocess.CompletedProcess(go, process.wait(), "", said)
    check_error(done, 3, "not enough memory", "batch_size")


@pytest.fixture
def no_home(disk, tmp_path):
    """A home that can't be written, for root neither: its path, and how to be within."""
    if os.geteuid():
        (tmp_path / "home").mkdir(mode=0o500)
        return tmp_path / "home", []
    place = disk("size=1m,ro")
    return place.path, place.within


def test_a_home_that_can_t_be_written(recipe, tmp_path, no_home, expected):
    home, within = no_home
    env = {"HOME": str(home / "gone"), "HF_HOME": None, "XDG_CACHE_HOME": None}
    env["TMPDIR"] = str(tmp_path)
    done = kd("fine-tune-teacher", recipe, "-o", tmp_path / "run", env=env, within=within)
    assert done.returncode == 0, done.stderr
    assert sha256_of_file(tmp_path / "run/teacher/model.safetensors") == expected[0]["teacher"]
    assert not list(tmp_path.glob("kd-*")), "the cache goes with the command"


@pytest.mark.parametrize("there", ["/proc", "/nowhere"])
def test_no_folder_for_temporary_files_is_no_obstacle(recipe, tmp_path, there):
    environment = os.environ | {"TMPDIR": there}
    done = forked.kd("fine-tune-teacher", recipe, "-o", tmp_path / "run", env=environment)
    assert done.returncode == 0, done.stderr


def test_nowhere_at_all_for_temporary_files(disk):
    # The same folders, read-only: the interpreter or this project may lie in one of them.
    close = "mount --bind $d $d && mount -o remount,bind,ro $d"
    hide = f'for d in /tmp /var/tmp; do {close} || exit; done; cd /proc; exec "$@"'
    within = ["unshare", "-rm", "sh", "-c", hide, "sh"]
    if subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        done = kd("fine-tune-teacher", "quickstart", "-o", f"{folder}/run", within=within)
    check_error(done, 3, "No usable temporary directory", "TMPDIR")


def test_a_clock_that_goes_backwards(recipe, tmp_path, monkeypatch, expected):
    start, begun = time.time(), time.monotonic()
    # Between two runs, and then during one.
    for clock in (lambda: start + 1e8, lambda: start - 1e5 * (time.monotonic() % 1e4)):
        monkeypatch.setattr(time, "time", clock)
        until = "teacher" if clock() > start else None
        run_pipeline(load_recipe(str(recipe)), tmp_path / "run", SilentReporter(), until)
    assert outcome(tmp_path / "run") == expected
    records = json.loads((tmp_path / "run/run.json").read_text())["stages"]
    assert all(record["seconds"] >= 0 for record in records.values())
    assert sum(record["seconds"] for record in records.values()) <= time.monotonic() - begun
    assert time.localtime().tm_year == int(
        (tmp_path / "run/.holder").read_text().partition("since ")[2][:4]
    )


def test_one_processor(recipe, tmp_path, expected):
    one = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])"
    done = forked.python(*after(one, "fine-tune-teacher", recipe, "-o", tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert sha256_of_file(tmp_path / "run/teacher/model.safetensors") == expected[0]["teacher"]


PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": None, "LC_CTYPE": None}
LOCALES = {
    "C": {**PLAIN, "LC_ALL": "C"},
    "POSIX": {**PLAIN, "LC_ALL": "POSIX"},
    "unset": {"LANG": None, "LC_ALL": None},
    "ascii": {"PYTHONIOENCODING": "ascii"},
}


@pytest.fixture(scope="module")
def plain(recipe, make_once, expected, tmp_path_factory):
    """A run of the C locale, to be run again."""

    def fill(folder):
        done = kd("distill", recipe, "-o", folder / "run", env=LOCALES["C"], encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert outcome(folder / "run") == expected

    folder = tmp_path_factory.mktemp("plain") / "run"
    return shutil.copytree(make_once("plain", fill) / "run", folder)


# An interpreter takes seconds to import the libraries: it forks for each command.
SEVERAL = """
import json, os, runpy, sys
import kdcli.cli.app, kdcli.recipe.loading
folder, commands = sys.argv[1], json.loads(sys.argv[2])
if "heavy" in sys.argv:
    import kdcli.pipeline.runner, kdcli.stages.evaluate
codes = []
for number, arguments in enumerate(commands):
    child = os.fork()
    if not child:
        for stream in (1, 2) if "capture" in sys.argv else ():
            os.dup2(os.open(f"{folder}/{number}.{stream}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["kd", *arguments]
        runpy.run_module("kdcli", run_name="__main__", alter_sys=True)
        sys.exit()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
with open(f"{folder}/codes", "w") as file:
    json.dump(codes, file)
"""


def several(folder, commands, *flags):
    """The command line of an interpreter that runs several `kd` commands."""
    listed = json.dumps([[str(argument) for argument in command] for command in commands])
    return [sys.executable, "-c", SEVERAL, str(folder), listed, *flags]


@pytest.mark.parametrize("env", LOCALES.values(), ids=LOCALES)
def test_a_locale_without_letters(recipe, plain, env, tmp_path):
    environment = {name: v for name, v in {**os.environ, **env}.items() if v is not None}
    commands = (
        ("distill", recipe, "-o", plain),
        ("distill", recipe, "-o", plain, "--json"),
        ("recipe", "show", recipe, "--json"),
        ("recipe", "check", recipe, "--set", "überall=1"),
    )
    subprocess.run(
        several(tmp_path, commands, "heavy", "capture"), env=environment, timeout=600, check=True
    )
    shown, as_json, recipe_shown, wrong = (
        subprocess.CompletedProcess(
            commands[number],
            code,
            (tmp_path / f"{number}.1").read_text("utf-8"),
            (tmp_path / f"{number}.2").read_text("utf-8"),
        )
        for number, code in enumerate(json.loads((tmp_path / "codes").read_text()))
    )
    assert shown.returncode == 0, shown.stderr
    assert "out-of-scope recall" in shown.stdout
    assert json.loads(as_json.stdout)["run"] == str(plain)
    scope = json.loads(recipe_shown.stdout)["evaluate"]["out_of_scope"]
    assert scope == LABELS["cancel_order"]
    check_error(wrong, 2, "berall")


def test_the_card_of_a_plain_locale_is_whole(plain):
    assert LABELS["cancel_order"] in (plain / "student/README.md").read_text("utf-8")


# How a shell leaves the streams, Python code that leaves those of a fork like that, and exit codes.
REOPEN = """
import os, sys
for number, name in ((1, "stdout"), (2, "stderr")):
    if getattr(sys, name) is not None:
        setattr(sys, name, os.fdopen(os.dup(number), "w", buffering=1))
"""
FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), {})"
UNREAD = "r, w = os.pipe(); os.close(r); os.dup2(w, {})"
CLOSED = ("os.close(0); sys.stdin = sys.__stdin__ = None",
          "os.close(1); sys.stdout = sys.__stdout__ = None",
          "os.close(2); sys.stderr = sys.__stderr__ = None")  # fmt: skip
STREAMS = {
    "output closed": (">&-", CLOSED[1], 0, 2),
    "errors closed": ("2>&-", CLOSED[2], 0, 2),
    "both closed": (">&- 2>&-", "; ".join(CLOSED[1:]), 0, 2),
    "all closed": ("<&- >&- 2>&-", "; ".join(CLOSED), 0, 2),
    "output full": (">/dev/full", FULL.format(1), 3, 2),
    "errors full": ("2>/dev/full", FULL.format(2), 0, 2),
    "nobody reads": ("| true", UNREAD.format(1), 0, 2),
    "nobody reads errors": ("2>&1 >/dev/null | true", UNREAD.format(2), 0, 2),
}


@pytest.mark.parametrize(("streams", "code", "fine", "wrong"), STREAMS.values(), ids=STREAMS)
def test_streams_that_can_t_be_written(recipe, plain, tmp_path, streams, code, fine, wrong):
    run = forked.python(*after(f"import os, sys; {code}", "distill", recipe, "-o", plain))
    commands = (
        ["recipe", "show", recipe, "--json"],
        ["recipe", "check", "nothing"],
        ["recipe", "check", "nothing", "--json"],
        ["distill"],
    )
    # In an interpreter that began like that, too.
    script = f'set -o pipefail; "$@" {streams}'
    shell = ["bash", "-c", script, "bash", *several(tmp_path, commands)]
    done = subprocess.run(shell, capture_output=True, text=True)
    codes = json.loads((tmp_path / "codes").read_text())
    assert [run.returncode, *codes] == [fine, fine, wrong, wrong, wrong], run.stderr + done.stderr
    for stderr in (run.stderr, done.stderr):
        assert "Traceback" not in stderr
        assert "Exception ignored" not in stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_stopped_outside_of_a_training_it_says_how_to_go_on(recipe, plain, tmp_path, number, code):
    run = shutil.copytree(plain, tmp_path / "run")
    go = ["distill", recipe, "-o", run, "--set", "evaluate.latency_texts=100000"]
    with forked.start("-m", "kdcli", *go) as process:
        while not re.match(r"evaluate .*: measure", process.stderr.readline()):
            assert process.poll() is None
        process.send_signal(number)
        said = process.stderr.read()
    done = subprocess.CompletedProcess(go, process.wait(), "", said)
    check_error(done, code, "Stopped in stage ", "Run the same command again to go on")


def test_a_stop_that_falls_into_a_finalizer_is_not_lost():
    script = """
import os, signal, sys, time
from kdcli.cli import app

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

def busy(**options):
    del options["prog_name"]
    Dropped()
    time.sleep(60)

app.app = busy
app.main()
"""
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        subprocess.run([sys.executable, "-c", script], timeout=600, check=True, capture_output=True)
    assert b"KeyboardInterrupt" in stopped.value.stderr


def test_training_goes_on_when_nobody_reads_its_progress(recipe, tmp_path, expected):
    unread = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.dup2(w, 2)"
    with forked.start(*after(unread, "distill", recipe, "-o", tmp_path / "run")) as process:
        assert process.wait() == 0
    assert outcome(tmp_path / "run") == expected


NAMES = ("a b", "ünï 模型 [x] {y} *? #h %20 c:d", "-dash/~tilde", "new\nline and \x1b[2J",
         f"{'x' * 200}/{'y' * 250}")  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=["space", "letters", "signs", "control", "long"])
def test_a_run_folder_of_any_name(recipe, tmp_path, name, expected):
    for again in (False, True):
        done = helpers.kd("distill", recipe, "-o", tmp_path / name, "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["run"] == str(tmp_path / name)
        assert (done.stderr.count("reused") == 8) == again
        assert all(line.isprintable() for line in done.stderr.splitlines())
    assert outcome(tmp_path / name) == expected


@pytest.mark.parametrize(
    "name", ["a::b", "\udcff", "x" * 256, "y/" * 2100], ids=lambda n: ascii(n[:9])
)
def test_a_run_folder_that_can_t_be(recipe, tmp_path, name):
    check_error(forked.kd("distill", recipe, "-o", tmp_path / name), 2)
    assert not list(tmp_path.iterdir())
