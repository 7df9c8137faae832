"""Run the application in uvicorn, in one process or several."""

import logging
import os
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from kdcli.api.cascade import CascadeClassifier
from kdcli.api.progress_reporting import choose_reporter
from kdcli.errors import ModelError, ResourceError, UsageError
from kdcli.path_resolution import expand_local_path
from kdcli.pipeline.run_folder import RECIPE_FILE
from kdcli.progress import Reporter
from kdcli.runtime import TextClassifier, available_cpus
from kdcli.serving.app import create_app, load_for_serving, model_name
from kdcli.serving.connections import create_protocol_class
from kdcli.serving.limits import ServingLimits
from kdcli.serving.metrics import MULTIPROCESS_FOLDER_VARIABLE

if TYPE_CHECKING:
    import uvicorn

_KEEP_ALIVE_SECONDS = 5
_BACKLOG = 1_024
_MIN_KEY_LENGTH = 8
_RESTART_PAUSE = 1.0


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    compare_teacher: bool = False,
    cascade: str | Path | None = None,
    log_deferred: Path | None = None,
    api_key_file: str | Path | None = None,
    workers: int = 1,
    num_threads: int | None = None,
    limits: ServingLimits | None = None,
    log_requests: bool = False,
    reporter: Reporter | None = None,
) -> None:
    """Serve a classifier over HTTP until SIGTERM or Ctrl-C, which let running requests finish.

    Args:
        model: What `kdcli.load` takes.
        host: Address to listen at.
        port: Port to listen at; 0 for a free one.
        name: Name of the model. Default: that of its folder.
        compare_teacher: Load the run's teacher, too, for the page to compare.
        api_key_file: File with a token in each line; a request needs one of them.
        workers: Processes. They share the memory of an exported model's weights.
        num_threads: Texts that a process predicts at once. Default: the CPUs, shared out.
        cascade: A model that answers the texts that `model` is unsure of, by the rule that
            `kd evaluate --cascade` wrote.
        log_deferred: File to which these texts are appended, as JSON lines.
        limits: Limits on requests.
        log_requests: Log each request, without its text.
        reporter: Receives messages; by default the logger `kdcli`.

    Raises:
        KdError: The model can't be loaded, or the address can't be had.
    """
    reporter = choose_reporter(reporter)
    limits = limits or ServingLimits()
    keys = _read_api_keys(api_key_file, reporter)
    if not keys and not _is_loopback(host):
        reporter.info(
            f"Anyone who reaches {host} can use this server: there is no token. Set one: "
            "--api-key-file FILE."
        )
    teacher_folder = _find_teacher(model) if compare_teacher else None
    with _listen(host, port) as listener:
        # What is loaded before the fork is in memory once.
        num_threads = num_threads or max(1, available_cpus() // workers)
        classifier: TextClassifier = load_for_serving(model, num_threads)
        teacher = None
        if teacher_folder is not None:
            teacher = load_for_serving(teacher_folder, num_threads)
        if cascade is not None:
            deferred_to = load_for_serving(cascade, num_threads)
            classifier = CascadeClassifier(classifier, deferred_to, log=log_deferred)
        if workers > 1:
            _check_can_fork(classifier, teacher)
        options: dict[str, Any] = {
            "name": name or model_name(model),
            "teacher": teacher,
            "api_keys": keys,
            "limits": limits,
            "num_threads": num_threads,
            "log_requests": log_requests,
        }
        address = _address_of(listener)
        reporter.info(f"Serving {options['name']} at {address} (Ctrl-C stops it).")
        if workers == 1:
            _run(listener, classifier, options)
        else:
            _run_forked(workers, lambda: _run(listener, classifier, options))


def create_server(app: FastAPI, limits: ServingLimits) -> "uvicorn.Server":
    """Create a server with limits on connections and slow clients; `run([socket])` starts it."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http=create_protocol_class(
            timeout=limits.timeout,
            keep_alive=_KEEP_ALIVE_SECONDS,
            max_connections=limits.max_connections,
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        # It would log addresses with their queries.
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        # Each request in progress is answered within its time.
        timeout_graceful_shutdown=int(limits.timeout) + 5,
    )
    return uvicorn.Server(config)


def _run(listener: socket.socket, classifier: TextClassifier, options: dict[str, Any]) -> None:
    """Serve until a signal."""
    server = create_server(create_app(classifier, **options), options["limits"])
    # uvicorn raises the signal again when all is done; a server that was stopped has not failed.
    with suppress(KeyboardInterrupt):
        server.run([listener])


def _run_forked(count: int, run: Callable[[], None]) -> None:
    """Run processes forked from this one until a signal; start those again that die."""
    children: set[int] = set()
    with tempfile.TemporaryDirectory(prefix="kd-metrics-") as folder:
        os.environ[MULTIPROCESS_FOLDER_VARIABLE] = folder
        try:
            while True:
                while len(children) < count:
                    children.add(_fork(run))
                ended, _ = os.wait()
                children.discard(ended)
                logging.getLogger("kdcli.serving").error("A process ended; starting another.")
                time.sleep(_RESTART_PAUSE)
        except KeyboardInterrupt:
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGTERM)
            for child in children:
                with suppress(ChildProcessError):
                    os.waitpid(child, 0)
        finally:
            del os.environ[MULTIPROCESS_FOLDER_VARIABLE]


def _fork(run: Callable[[], None]) -> int:
    """Run a function in a fork of this process, and return its process id."""
    if child := os.fork():
        return child
    code = 1
    try:
        run()
        code = 0
    finally:
        # Nothing of the parent's may run twice.
        os._exit(code)


def _check_can_fork(*models: TextClassifier | None) -> None:
    """Check that models work in a fork: PyTorch's threads do not.

    Raises:
        UsageError: One doesn't.
    """
    if not hasattr(os, "fork"):
        raise UsageError("--workers needs fork, which this system lacks.")
    if any(model is not None and not model.is_thread_safe for model in models):
        raise UsageError(
            "--workers needs models that were exported to ONNX: others do not work in a fork.",
            "Export it: kd export MODEL. Or start several servers at several ports.",
        )


def _find_teacher(model: str | Path) -> Path:
    """Return the folder of a run's teacher."""
    run = expand_local_path(str(model))
    teacher = run / "teacher"
    if not (run / RECIPE_FILE).is_file() or not (teacher / "config.json").is_file():
        raise ModelError(
            f"{model} is no run with a teacher to compare.",
            "Name a run's folder, or leave out --compare-teacher.",
        )
    return teacher


def _read_api_keys(file: str | Path | None, reporter: Reporter) -> Sequence[str]:
    """Read the tokens of a file, one a line."""
    if file is None:
        return ()
    path = expand_local_path(str(file))
    try:
        text = path.read_text(encoding="ascii")
        mode = path.stat().st_mode
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: a token has ASCII characters alone.") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}.") from error
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys or any(len(key) < _MIN_KEY_LENGTH or " " in key for key in keys):
        raise UsageError(
            f"{path} needs a token in each line, of at least {_MIN_KEY_LENGTH} characters without "
            "spaces.",
            "Make one: openssl rand -hex 32.",
        )
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        reporter.info(f"Other users of this machine can read {path}: chmod 600 {path}.")
    return keys


def _listen(host: str, port: int) -> socket.socket:
    """Listen at an address.

    Raises:
        UsageError: There is no such address.
        ResourceError: It is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (socket.gaierror, OverflowError, UnicodeError) as error:
        raise UsageError(f"{host}:{port} is no address to listen at.") from error
    except OSError as error:
        raise ResourceError(
            f"{host}:{port}: {error.strerror}.", "Name another port: --port 8001."
        ) from error


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
