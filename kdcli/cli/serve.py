"""`kd serve`: label texts over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli.console import Console
from kdcli.cli.options import QuietOption


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run folder (its student), a folder, an ONNX file, a Hub id, package:NAME/PATH.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="Name of the model. Default: that of its folder.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Require one of the tokens in FILE, one a line: Bearer TOKEN."
        ),
    ] = None,
    compare_teacher: Annotated[
        bool, typer.Option("--compare-teacher", help="Show the run's teacher beside its student.")
    ] = False,
    cascade: Annotated[
        str | None,
        typer.Option(
            metavar="TEACHER",
            help="The model that answers the texts that MODEL is unsure of, by the rule that "
            "kd evaluate --cascade wrote.",
        ),
    ] = None,
    log_deferred: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append these texts to FILE, as JSON lines."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; an exported model's weights are shared.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Texts that a process labels at once. Default: the CPUs."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 1_048_576,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts in a request.")] = 128,
    max_chars: Annotated[int, typer.Option(min=1, help="Characters of a text.")] = 32_768,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Texts that wait; beyond, requests get 429.")
    ] = 1_024,
    max_connections: Annotated[int, typer.Option(min=1, help="Open connections.")] = 1_000,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for a request to arrive, and to be answered.")
    ] = 30.0,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log each request, without its text.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Serve a classifier over HTTP, and a page to try texts.

    It answers as the Hugging Face inference API, text-embeddings-inference and KServe do.
    """
    import logging

    from kdcli.serving import ServingLimits
    from kdcli.serving import serve as run_server

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("kdcli.serving").setLevel(logging.INFO)
    limits = ServingLimits(
        max_body_bytes=max_body,
        max_texts=max_texts,
        max_text_chars=max_chars,
        max_queued_texts=max_queue,
        max_connections=max_connections,
        timeout=timeout,
    )
    run_server(
        model,
        host=host,
        port=port,
        name=name,
        compare_teacher=compare_teacher,
        cascade=cascade,
        log_deferred=log_deferred,
        api_key_file=api_key_file,
        workers=workers,
        num_threads=threads,
        limits=limits,
        log_requests=log_requests,
        reporter=Console(quiet=quiet),
    )
