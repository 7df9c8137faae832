"""The ASGI application: routes, and their description in OpenAPI."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from kdcli import __version__
from kdcli.errors import UsageError
from kdcli.path_resolution import expand_local_path
from kdcli.runtime import (
    EXPORT_FILE,
    ONNX_FOLDER,
    Classifier,
    TextClassifier,
    available_cpus,
)
from kdcli.serving.errors import error_content
from kdcli.serving.gateway import Gateway
from kdcli.serving.limits import ServingLimits
from kdcli.serving.metrics import ServingMetrics
from kdcli.serving.page import page_response
from kdcli.serving.protocols import huggingface, kserve, native, text_embeddings_inference
from kdcli.serving.protocols.base import json_response
from kdcli.serving.served_model import ServedModel

_REQUEST_MODELS = {
    huggingface: huggingface.HuggingFaceRequest,
    text_embeddings_inference: text_embeddings_inference.TextEmbeddingsInferenceRequest,
    kserve: kserve.KServeRequest,
    native: native.ClassifyRequest,
}
_SCHEMAS = "#/components/schemas/{model}"
_ERRORS = {
    400: "The body is no JSON.",
    401: "The token is missing or wrong.",
    413: "The body, the number of texts or a text is too large.",
    422: "A key or a type is wrong.",
    429: "The queue is full; Retry-After says when to try again.",
    504: "There was no answer in time.",
}


def create_app(
    model: str | Path | TextClassifier,
    *,
    name: str | None = None,
    teacher: str | Path | TextClassifier | None = None,
    api_keys: Sequence[str] = (),
    limits: ServingLimits | None = None,
    num_threads: int | None = None,
    log_requests: bool = False,
) -> FastAPI:
    """Create an ASGI application that serves a classifier.

    It has the routes of the Hugging Face inference API (`POST /`), text-embeddings-inference
    (`POST /predict`) and KServe (`/v2`), kd's own (`POST /classify`), `/health`, `/ready`,
    `/metrics`, `/info`, `/openapi.json`, and a page to try texts (`GET /`).

    Args:
        model: A classifier, or what `kdcli.load` takes.
        name: Name of the model. Default: that of its folder.
        teacher: A second model, for the page to compare.
        api_keys: Tokens, of which a request needs one as `Authorization: Bearer TOKEN`. Without
            any, whoever reaches the server may use it.
        limits: Limits on requests.
        num_threads: Texts that are predicted at once. Default: the CPUs that this process may use.
        log_requests: Log each request, without its text, to the logger `kdcli.serving`.

    Raises:
        KdError: A model can't be loaded.
    """
    limits = limits or ServingLimits()
    num_threads = num_threads or available_cpus()
    metrics = ServingMetrics()
    served = _serve_model(model, name, limits, metrics, num_threads)
    served_teacher = None
    if teacher is not None:
        served_teacher = _serve_model(teacher, "teacher", limits, None, num_threads)

    @asynccontextmanager
    async def run_queues(_: FastAPI) -> AsyncIterator[None]:
        queues = [each.queue for each in (served, served_teacher) if each is not None]
        for queue in queues:
            queue.start()
        yield
        for queue in queues:
            queue.stop()

    app = FastAPI(
        title=f"kd: {served.name}",
        version=__version__,
        lifespan=run_queues,
        # The pages of Swagger and ReDoc load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(
        Gateway, metrics=metrics, api_keys=tuple(api_keys), log_requests=log_requests
    )
    app.add_exception_handler(HTTPException, _describe_http_error)
    _add_protocols(app, served, served_teacher)
    _add_probes(app, served, served_teacher, metrics)
    app.openapi = partial(_describe_routes, app)  # type: ignore[method-assign]
    return app


def load_for_serving(model: str | Path, num_threads: int) -> TextClassifier:
    """Load a classifier for some threads.

    Where it may, each thread predicts a text of its own, which is the fastest under load.
    """
    folder = expand_local_path(str(model))
    if (folder / ONNX_FOLDER / EXPORT_FILE).is_file():
        # A container has no other packages than this needs.
        load: Callable[..., TextClassifier] = Classifier
    else:
        from kdcli.api.prediction import load
    classifier = load(model, num_threads=1)
    if isinstance(classifier, Classifier) and not classifier.is_thread_safe:
        return load(model, num_threads=num_threads)
    return classifier


def model_name(model: str | Path) -> str:
    """Return the name of a model: that of its run, folder or repository."""
    path = expand_local_path(str(model))
    path = path.resolve() if path.exists() else Path(str(model))
    folder = path.parent if path.suffix == ".onnx" else path
    parts = [part for part in folder.parts if part not in ("student", "onnx")]
    return parts[-1] if parts else "model"


def _serve_model(
    model: str | Path | TextClassifier,
    name: str | None,
    limits: ServingLimits,
    metrics: ServingMetrics | None,
    num_threads: int,
) -> ServedModel:
    classifier = (
        model if isinstance(model, TextClassifier) else load_for_serving(model, num_threads)
    )
    source = classifier.folder if isinstance(model, TextClassifier) else model
    name = name or model_name(source)
    if not name or "/" in name or not name.isprintable():
        raise UsageError(f"{name!r} can't be a model's name in an address.", "Name it: --name.")
    return ServedModel(classifier, name, limits, metrics, num_threads)


def _add_protocols(app: FastAPI, model: ServedModel, teacher: ServedModel | None) -> None:
    def add(protocol: ModuleType, answer: Callable[[Request], Awaitable[Response]]) -> None:
        schema = _REQUEST_MODELS[protocol].__name__
        app.add_api_route(
            protocol.PATH,
            answer,
            methods=["POST"],
            response_model=None,
            summary=protocol.SUMMARY,
            operation_id=protocol.__name__.rpartition(".")[2],
            responses={
                200: {"content": {"application/json": {"example": protocol.EXAMPLE_ANSWER}}},
                **{status: {"description": text} for status, text in _ERRORS.items()},
            },
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"$ref": _SCHEMAS.format(model=schema)},
                            "examples": {
                                title: {"value": value}
                                for title, value in protocol.EXAMPLES.items()
                            },
                        }
                    },
                }
            },
        )

    # FastAPI reads the signatures: a route takes the request alone.
    async def answer_huggingface(request: Request) -> Response:
        return await huggingface.answer(request, model)

    async def answer_text_embeddings_inference(request: Request) -> Response:
        return await text_embeddings_inference.answer(request, model)

    async def answer_kserve(request: Request) -> Response:
        return await kserve.answer(request, model)

    async def answer_native(request: Request) -> Response:
        return await native.answer(request, model, teacher)

    add(huggingface, answer_huggingface)
    add(text_embeddings_inference, answer_text_embeddings_inference)
    add(kserve, answer_kserve)
    add(native, answer_native)


def _add_probes(
    app: FastAPI, model: ServedModel, teacher: ServedModel | None, metrics: ServingMetrics
) -> None:
    def probe() -> Response:
        if model.queue.is_running:
            return json_response({"status": "ok"})
        return json_response(error_content(503, "The model is not running."), 503)

    async def get_health() -> Response:
        """Whether the server works; 503 if not."""
        return probe()

    async def get_kserve_health(request: Request) -> Response:
        """Whether the server works, as KServe asks; 503 if not."""
        is_live, is_running = request.url.path.endswith("/live"), model.queue.is_running
        return json_response(
            {"live" if is_live else "ready": is_running}, 200 if is_running else 503
        )

    async def get_model_readiness(request: Request) -> Response:
        """Whether the model is ready, as KServe asks; 503 if not."""
        kserve.check_name(request, model)
        is_running = model.queue.is_running
        content = {"name": model.name, "ready": is_running}
        return json_response(content, 200 if is_running else 503)

    async def get_server_metadata() -> Response:
        """The server's metadata, as KServe asks."""
        return json_response(kserve.describe_server())

    async def get_model_metadata(request: Request) -> Response:
        """The model's inputs, outputs and labels, as KServe asks."""
        kserve.check_name(request, model)
        return json_response(kserve.describe_model(model))

    async def get_info() -> Response:
        """The model's name, task and labels."""
        return json_response(
            {
                "model": model.name,
                "task": model.task,
                "labels": [*model.labels],
                "teacher": teacher is not None,
                "pending_texts": model.queue.num_pending_texts,
                "max_text_chars": model.limits.max_text_chars,
                "version": __version__,
            }
        )

    async def get_metrics() -> Response:
        """Metrics for Prometheus."""
        content, media_type = metrics.render()
        return Response(content, media_type=media_type)

    async def get_page() -> Response:
        return page_response()

    routes: dict[str, Callable[..., Awaitable[Response]]] = {
        "/health": get_health,
        "/ready": get_health,
        "/v2": get_server_metadata,
        "/v2/health/live": get_kserve_health,
        "/v2/health/ready": get_kserve_health,
        "/v2/models/{model_name}": get_model_metadata,
        "/v2/models/{model_name}/ready": get_model_readiness,
        "/info": get_info,
        "/metrics": get_metrics,
    }
    for path, route in routes.items():
        app.add_api_route(path, route, response_model=None, name=path)
    app.add_api_route("/", get_page, response_model=None, include_in_schema=False)


async def _describe_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method with JSON."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    message = {404: "There is no such path.", 405: "This path has no such method."}.get(
        status, str(error.detail)
    )
    return json_response(error_content(status, message), status, error.headers)


def _describe_routes(app: FastAPI) -> dict[str, Any]:
    """Describe the routes in OpenAPI, with the schemas of the requests."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            routes=app.routes,
            description="Texts are labelled as `kd evaluate` does: with its temperature and "
            "thresholds. In the protocols of others, the label that kd decides for comes first.",
        )
        models = [(model, "validation") for model in _REQUEST_MODELS.values()]
        _, schemas = models_json_schema(models, ref_template=_SCHEMAS)  # type: ignore[arg-type]
        document.setdefault("components", {})["schemas"] = schemas["$defs"]
        app.openapi_schema = document
    return app.openapi_schema
