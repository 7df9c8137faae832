"""Files that build a container image of an exported folder: `kd export --docker`."""

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path

from kdcli.errors import UsageError
from kdcli.recipe.export import Format

DOCKER_FOLDER = "docker"
# All that `kd serve` imports for an exported model.
_PACKAGES = (
    "fastapi",
    "numpy",
    "prometheus_client",
    "pydantic",
    "pyyaml",
    "tokenizers",
    "typer",
    "uvicorn",
)
_RUNTIMES: dict[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
_USER_ID = 10001
_PORT = 8000
# Seconds to finish running requests; the server's own limit is 35.
_STOP_SECONDS = 40

_DOCKERFILE = """\
# Written by `kd export --docker`. Build: docker build -t {tag} .
FROM python:{python}-slim
WORKDIR /app
COPY {docker}/requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt \\
    && useradd --system --uid {user} --no-create-home kd
COPY --chown={user} {docker}/kdcli kdcli/
COPY --chown={user} config.json tokenizer.json tokenizer_config.json kd.json* model/
COPY --chown={user} onnx model/onnx/
USER {user}
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 ORT_DISABLE_TELEMETRY=1
EXPOSE {port}
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \\
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/ready')"]
# Further flags of `kd serve` go behind the image's name.
ENTRYPOINT ["python", "-m", "kdcli", "serve", "model", "--host", "0.0.0.0", "--name", {name}]
"""

_COMPOSE = """\
# Written by `kd export --docker`. Start: docker compose up --build
services:
  classifier:
    build: .
    ports:
      - "127.0.0.1:{port}:{port}"
    read_only: true
    tmpfs:
      - /tmp
    cap_drop:
      - ALL
    security_opt:
      - no-new-privileges:true
    stop_grace_period: {stop}s
    restart: unless-stopped
    # A token for each request, one a line in tokens.txt (openssl rand -hex 32 > tokens.txt):
    # command: ["--api-key-file", "/run/secrets/tokens"]
    # secrets:
    #   - tokens
# secrets:
#   tokens:
#     file: tokens.txt
"""

# The image holds the exported file alone.
_IGNORED = """\
*
!config.json
!tokenizer.json
!tokenizer_config.json
!kd.json
!onnx/export.json
{files}
!docker
**/__pycache__
"""


def require_serving_packages(export_format: Format) -> None:
    """Check that the packages which the image gets are installed here, in their versions.

    Raises:
        UsageError: One isn't.
    """
    for name in _list_packages(export_format):
        try:
            version(name)
        except PackageNotFoundError as error:
            raise UsageError(
                f"--docker needs {name}, which is not installed.",
                "Install it: pip install 'kdcli[serve]'.",
            ) from error


def write_container_files(
    folder: Path, name: str, exported_file: str, export_format: Format
) -> None:
    """Write `Dockerfile`, `compose.yaml`, `.dockerignore` and `docker/` into an exported folder.

    The image holds kd as it is installed here, and the packages of `kd serve` in the versions that
    are installed here, without PyTorch.

    Args:
        folder: An exported folder.
        name: The model's name in answers.
        exported_file: The file in `onnx/` to serve.
        export_format: Its format.
    """
    docker = folder / DOCKER_FOLDER
    docker.mkdir()
    with as_file(files("kdcli")) as package:
        shutil.copytree(
            package, docker / "kdcli", ignore=shutil.ignore_patterns("__pycache__", "recipes")
        )
    # A local version, such as that of a build for one CPU, is on no index.
    pins = [f"{each}=={version(each).partition('+')[0]}" for each in _list_packages(export_format)]
    _write(docker / "requirements.txt", "\n".join(pins) + "\n")
    weights = [exported_file]
    if exported_file.endswith(".xml"):  # OpenVINO's
        weights.append(Path(exported_file).with_suffix(".bin").name)
    _write(
        folder / ".dockerignore",
        _IGNORED.format(files="\n".join(f"!onnx/{each}" for each in weights)),
    )
    dockerfile = _DOCKERFILE.format(
        tag=_to_tag(name),
        python=".".join(map(str, sys.version_info[:2])),
        docker=DOCKER_FOLDER,
        user=_USER_ID,
        port=_PORT,
        name=json.dumps(name),
    )
    _write(folder / "Dockerfile", dockerfile)
    _write(folder / "compose.yaml", _COMPOSE.format(port=_PORT, stop=_STOP_SECONDS))


def _list_packages(export_format: Format) -> list[str]:
    return sorted((*_PACKAGES, _RUNTIMES[export_format]))


def _to_tag(name: str) -> str:
    """Return an image's name: lower-case letters, digits and hyphens."""
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return letters.lower().strip("-") or "classifier"


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
