"""The files of `kd export --docker`; the image is put together as the Dockerfile says."""

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import version

import httpx
import pytest
import yaml
from serving.running import address_of

from kdcli.errors import UsageError
from kdcli.onnx_export import container


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    """An exported folder with the files of a container."""
    copy = tmp_path_factory.mktemp("container") / "My Model"
    shutil.copytree(exported, copy)
    container.write_container_files(copy, copy.name, "model_quantized.onnx", "onnx")
    return copy


def is_ignored(name, patterns):
    """Whether `.dockerignore` leaves a path out: its last pattern that matches decides."""
    ignored = False
    for pattern in patterns:
        bare = pattern.lstrip("!")
        parents = name.split("/")
        paths = ["/".join(parents[:n]) for n in range(1, len(parents) + 1)]
        if any(fnmatch(path, bare.replace("**/", "*")) for path in paths):
            ignored = not pattern.startswith("!")
    return ignored


@pytest.fixture(scope="module")
def image(folder, tmp_path_factory):
    """The folder that the Dockerfile's COPY lines make, of what `.dockerignore` lets through."""
    context, image = (tmp_path_factory.mktemp(name) for name in ("context", "image"))
    patterns = (folder / ".dockerignore").read_text().split("\n")
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not is_ignored(name, [each for each in patterns if each]):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, context / name)
    for line in re.findall(r"^COPY (.*)$", (folder / "Dockerfile").read_text(), re.MULTILINE):
        *sources, target = [each for each in line.split() if not each.startswith("--")]
        for source in sources:
            found = [*context.glob(source)]
            assert found or source.endswith("*"), source
            for path in found:
                if path.is_dir():
                    shutil.copytree(path, image / target, dirs_exist_ok=True)
                else:
                    (image / target).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, image / target / path.name)
    return image


def test_the_image_holds_the_exported_file_and_no_weights_of_pytorch(image):
    files = {path.name for path in (image / "model").rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "model_quantized.onnx", "export.json"} <= files
    assert not {"model.safetensors", "model.onnx", "README.md"} & files


def test_the_container_serves_as_the_dockerfile_starts_it(folder, image, exported):
    import json

    import kdcli

    entry = re.search(r"^ENTRYPOINT (.*)$", (folder / "Dockerfile").read_text(), re.MULTILINE)[1]
    program, *arguments = json.loads(entry)
    assert program == "python"
    # A package that the image lacks can't be imported.
    lacking = ("torch", "transformers", "datasets", "sklearn", "pandas", "accelerate")
    block = f"import sys; sys.modules.update(dict.fromkeys({lacking}))"
    (image / "sitecustomize.py").write_text(block)
    environment = {**os.environ, "PYTHONPATH": str(image), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments, "--port", "0"]
    with subprocess.Popen(
        command, cwd=image, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = address_of(process).replace("0.0.0.0", "127.0.0.1")
            assert httpx.get(f"{address}/ready").status_code == 200
            text = "where is my parcel"
            answer = httpx.post(f"{address}/", json={"inputs": text}).json()
            (expected,) = kdcli.load(exported).predict([text])
            assert answer[0][0]["label"] == expected.label
        finally:
            process.terminate()


def test_requirements_pin_what_is_installed_here(folder):
    lines = (folder / "docker" / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    assert pins["onnxruntime"] == version("onnxruntime")
    assert not {"torch", "transformers"} & set(pins)


def test_compose_is_yaml_without_privileges(folder):
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["classifier"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]


def test_the_image_runs_as_a_user_who_may_read_its_files(folder):
    dockerfile = (folder / "Dockerfile").read_text()
    user = re.search(r"^USER (\S+)$", dockerfile, re.MULTILINE)[1]
    assert user not in ("0", "root")
    # Files that only their owner may read would be root's.
    for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE):
        assert "requirements.txt" in line or f"--chown={user}" in line


@pytest.mark.parametrize(
    ("name", "tag"), [("My Model", "my-model"), ("größe", "gr--e"), ("…", "classifier")]
)
def test_a_name_becomes_an_image_s(name, tag):
    assert container._to_tag(name) == tag


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(container, "_PACKAGES", ("fastapi", "no-such-package"))
    with pytest.raises(UsageError, match="no-such-package"):
        container.require_serving_packages("onnx")
