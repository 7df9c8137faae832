"""Serve a classifier over HTTP: an ASGI application, and a server that runs it.

    import kdcli.serving

    app = kdcli.serving.create_app("runs/mine")  # for uvicorn, hypercorn, a test client, …
    kdcli.serving.serve("runs/mine", port=8000)  # the same in a server of kd

Needs the extra `serve`. An exported model is served without PyTorch.
"""

from kdcli.errors import UsageError

try:
    from kdcli.serving.app import create_app
    from kdcli.serving.limits import ServingLimits
    from kdcli.serving.server import serve
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("fastapi", "prometheus_client", "uvicorn"):
        raise
    raise UsageError(
        f"Serving needs {error.name}, which is not installed.",
        "Install it: pip install 'kdcli[serve]'.",
    ) from error

__all__ = ["ServingLimits", "create_app", "serve"]
