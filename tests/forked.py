"""Run Python, and `kd` in it, in processes forked from one that has imported the libraries.

A new interpreter takes seconds to import PyTorch and transformers; a fork takes milliseconds. It
has its own process id, folder, environment, streams and exit code, and ends as any interpreter
does. What a fork can't show needs `subprocess`: how the interpreter starts (its locale, closed
streams, limits) and what it imports when.

    done = forked.kd("distill", "recipe.yaml", cwd=folder)  # a subprocess.CompletedProcess
    with forked.start("-m", "kdcli", "sweep", "recipe.yaml") as process:
        process.send_signal(signal.SIGINT)
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# What doesn't look at the Hub's variables while it is imported.
_LIBRARIES = (
    "jinja2", "matplotlib.figure", "matplotlib.backends.backend_svg", "pandas", "pyarrow.parquet",
    "pydantic", "rich.progress", "sklearn.metrics", "sklearn.model_selection",
    "torch.distributed.tensor", "torch._dynamo", "typer.testing",
)  # fmt: skip
# What does look at them: the Hub's address, its cache, whether it is to be asked at all.
_OF_THE_HUB = (
    "accelerate", "datasets", "transformers.trainer",
    "transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert",
    "transformers.models.distilbert.modeling_distilbert", "kdcli.cli.app", "kdcli.pipeline.runner",
    "kdcli.stages.distill", "kdcli.stages.evaluate", "kdcli.stages.html_report",
    "kdcli.pipeline.preflight", "kdcli.pipeline.stage_training",
    "kdcli.pipeline.teacher_preparation", "kdcli.api.runs",
)  # fmt: skip
_VARIABLES = ("DATASETS_", "HF_", "HOME", "TRANSFORMERS_", "XDG_")
_PATIENCE = 600  # seconds: a machine may have other things to do


class Process:
    """A process that was forked; its streams are UTF-8.

    Attributes:
        args: What its interpreter was given.
        pid: Its id.
        stderr: A pipe of what it writes there.
        returncode: None as long as it isn't known to have ended.
    """

    def __init__(
        self, server: socket.socket, args: list[str], env: Mapping[str, str], cwd: str
    ) -> None:
        self.args, self.returncode = args, None
        self._stdout = tempfile.TemporaryFile("r", encoding="utf-8")
        reader, writer = os.pipe()
        self.stderr = os.fdopen(reader, encoding="utf-8")
        self._reply = _ask(
            server, {"run": args, "env": dict(env), "cwd": cwd}, self._stdout.fileno(), writer
        )
        os.close(writer)
        self.pid = self._told()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stderr.close()
        self.wait()

    def _told(self) -> int:
        told = self._reply.recv(4, socket.MSG_WAITALL)
        assert len(told) == 4, "the process that forks is gone"
        return struct.unpack("i", told)[0]

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float = _PATIENCE) -> int:
        """Return its exit code once it has ended, or below 0 the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: It goes on.
        """
        if self.returncode is None:
            self._reply.settimeout(timeout)
            try:
                self.returncode = os.waitstatus_to_exitcode(self._told())
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(self.args, timeout) from error
        return self.returncode

    def communicate(self, timeout: float = _PATIENCE) -> tuple[str, str]:
        """Return what it wrote to stdout and stderr once it has ended; kill it after a time."""
        watch = threading.Timer(timeout, self.kill)
        watch.start()
        said = self.stderr.read()
        self.wait()
        watch.cancel()
        self._stdout.seek(0)
        return self._stdout.read(), said

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def start(*arguments: object, cwd: object = None, env: Mapping[str, str] | None = None) -> Process:
    """Start `python ARGUMENTS`, of the forms `-m MODULE …` and `-c CODE …`."""
    env = dict(os.environ if env is None else env)
    if env.get("HF_HOME") not in (None, os.environ.get("HF_HOME")):
        env["HF_HOME"] = _linked(Path(env["HF_HOME"]))
    names = ("DATASETS_", "HF_", "TRANSFORMERS_") if "HF_HOME" in env else _VARIABLES
    of_hub = {name: value for name, value in env.items() if name.startswith(names)}
    server = _with_hub(frozenset(of_hub.items()))
    return Process(server, [*map(str, arguments)], env, str(cwd or Path.cwd()))


def _linked(home: Path) -> str:
    """Return one path for every cache: a process that has imported the libraries serves them all.

    Processes that run at the same time share the cache of the last.
    """
    home.mkdir(parents=True, exist_ok=True)
    link = _folder() / "hf"
    link.unlink(missing_ok=True)
    link.symlink_to(home)
    return str(link)


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="kd-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def python(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run it to its end; see `start`."""
    process = start(*arguments, **options)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kd(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `kd ARGUMENTS` to its end; see `start`."""
    return python("-m", "kdcli", *arguments, **options)


# Below: who forks. A first interpreter imports the libraries and forks for each process that runs
# tests; that forks one for each environment of the Hub, which has what looks at it. Each ends when
# nobody can ask it any more.

_ADDRESS = "KD_TESTS_FORK_SERVER"


def share() -> None:
    """Start the first interpreter for all processes that inherit this one's environment."""
    if _ADDRESS in os.environ:
        return
    address = str(_folder() / "forks")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        _first(listener)
    os.environ[_ADDRESS] = address


@functools.cache
def _libraries() -> socket.socket:
    share()
    ours = socket.socket(socket.AF_UNIX)
    ours.connect(os.environ[_ADDRESS])
    return ours


_alive: list[socket.socket] = []  # closed when this process ends


def _first(listener: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    _alive.append(ours)
    with theirs:
        descriptors = [listener.fileno(), theirs.fileno()]
        subprocess.Popen(
            [sys.executable, __file__, *map(str, descriptors)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=descriptors,
        )  # fmt: skip


def _accept(listener: socket.socket, starter: socket.socket) -> socket.socket:
    """Fork for each connection; return it in a fork alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        if starter in select.select([listener, starter], [], [])[0]:
            os._exit(0)
        for name in _LIBRARIES:
            importlib.import_module(name)
        gc.freeze()
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            starter.close()
            return connection
        connection.close()


@functools.lru_cache(maxsize=6)
def _with_hub(variables: frozenset[tuple[str, str]]) -> socket.socket:
    outside = {n: value for n, value in os.environ.items() if not n.startswith(_VARIABLES)}
    return _ask(_libraries(), {"serve": _OF_THE_HUB, "env": outside | dict(variables)})


def _ask(server: socket.socket, request: dict[str, object], *streams: int) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(server, [b"."], [theirs.fileno(), *streams])
    content = json.dumps(request).encode()
    ours.sendall(struct.pack("i", len(content)) + content)
    return ours


def _serve(server: socket.socket) -> list[str]:
    """Fork for each request; return in a fork alone, with the arguments of what it is to run."""
    # Nobody waits for a fork, unless it runs something: then a process beside it does.
    while True:
        asked, given, *_ = socket.recv_fds(server, 1, 3)
        if not asked:
            os._exit(0)
        if os.fork():
            for descriptor in given:
                os.close(descriptor)
            continue
        server.close()
        server = socket.socket(fileno=given[0])
        size = struct.unpack("i", server.recv(4, socket.MSG_WAITALL))[0]
        request = json.loads(server.recv(size, socket.MSG_WAITALL))
        os.environ.clear()
        os.environ.update(request["env"])
        tempfile.tempdir = None
        if "serve" not in request:
            return _become(request, server, *given[1:])
        for name in request["serve"]:
            importlib.import_module(name)
        gc.freeze()


def _become(request: dict, client: socket.socket, stdout: int, stderr: int) -> list[str]:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        os.close(stdout)
        os.close(stderr)
        with suppress(OSError):  # nobody may wait any more
            client.sendall(struct.pack("i", child))
            client.sendall(struct.pack("i", os.waitpid(child, 0)[1]))
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    client.close()
    for descriptor, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = open(
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    os.chdir(request["cwd"])
    return request["run"]


def _run(how: str, what: str, *arguments: str) -> None:
    sys.path[0] = str(Path.cwd()) if how == "-m" else ""
    if how == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(what, {"__name__": "__main__"})


if __name__ == "__main__":
    _run(*_serve(_accept(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))))
