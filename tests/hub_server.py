"""A Hub on loopback: enough of the Hugging Face Hub's HTTP API for its real clients.

    with HubServer() as hub:
        hub.add_repo("model", "owner/name", {"config.json": b"{}"})
        subprocess.run([...], env={**os.environ, **hub.env(), "HF_HOME": ...})

`HF_ENDPOINT` is read when huggingface_hub is imported, so clients run in a process of their own.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

_LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".arrow", ".h5", ".onnx")
_LFS_SIZE = 10 * 1024 * 1024


@dataclass
class Commit:
    """One commit: its id, its message, and the paths that it touched."""

    oid: str
    message: str
    paths: frozenset[str]


@dataclass
class Repo:
    """A repository's present files, and the commits that led to them."""

    kind: str
    name: str
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, "Repo"] = field(default_factory=dict)

    def branch(self, name: str) -> "Repo":
        """A new branch of the present files; a branch is a repository of its own here."""
        made = Repo(self.kind, self.name, self.private, dict(self.files), list(self.commits))
        self.branches[name] = made
        return made

    @property
    def sha(self) -> str:
        """The latest commit's id."""
        return self.commits[-1].oid

    def commit(self, message: str, changes: Mapping[str, bytes | None]) -> Commit:
        """Apply changes (None deletes) as one commit."""
        for path, content in changes.items():
            if content is None:
                self.files.pop(path, None)
            else:
                self.files[path] = content
        seed = f"{self.kind}/{self.name}/{len(self.commits)}/{message}".encode()
        made = Commit(hashlib.sha1(seed).hexdigest(), message, frozenset(changes))
        self.commits.append(made)
        return made


@dataclass
class _Fault:
    method: str
    path: re.Pattern[str]
    act: Callable[["_Handler"], None]
    times: int


class HubServer:
    """The server; a context manager.

    Args:
        user: Whose token it takes.
        token: The only one that it takes.
    """

    # The same for one server after another: `forked` keeps a process for each address.
    _port = 0

    def __init__(self, user: str = "wmduggan41", token: str = "hf_loopback") -> None:
        self.user, self.token = user, token
        self.repos: dict[tuple[str, str], Repo] = {}
        self.aliases: dict[tuple[str, str], str] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.resumed: list[tuple[str, int]] = []  # files asked for from a byte on
        self.faults: list[_Fault] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", HubServer._port), handler)
        except OSError:  # another is open
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        HubServer._port = HubServer._port or self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()

    def env(self) -> dict[str, str]:
        """The environment in which a client finds this Hub and may write to it."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def add_repo(
        self,
        kind: str,
        name: str,
        files: Mapping[str, bytes | Path],
        aliases: tuple[str, ...] = (),
    ) -> Repo:
        """Put a repository there; old names of it are redirected."""
        repo = self.repos[kind, name] = Repo(kind, name)
        contents = {p: f if isinstance(f, bytes) else f.read_bytes() for p, f in files.items()}
        repo.commit("initial commit", contents)
        self.aliases |= {(kind, alias): name for alias in aliases}
        return repo

    def repo(self, kind: str, name: str) -> Repo:
        """The repository as it is now."""
        return self.repos[kind, name]

    def fail_next(self, method: str, path: str, status: int, times: int = 1) -> None:
        """Answer the next matching requests with an error status."""
        message = f"injected {status}"
        self._inject(method, path, lambda h: h.error(status, "", message), times)

    def drop_next(self, method: str, path: str, times: int = 1) -> None:
        """Break the connection in the middle of the next matching answers."""
        self._inject(method, path, lambda h: setattr(h, "cut", True), times)

    def delay(self, path: str, seconds: float) -> None:
        """Answer matching requests late."""
        self._inject(".*", path, lambda h: time.sleep(seconds), 1_000_000)

    def _inject(
        self, method: str, path: str, act: Callable[["_Handler"], None], times: int
    ) -> None:
        self.faults.append(_Fault(method, re.compile(path), act, times))


class _Answered(Exception):
    """Raised once an answer is sent, to leave the handler from any depth."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `HubServer.requests` is the log."""

    def _dispatch(self) -> None:
        self.cut = False
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.hub.requests.append((self.command, path))
        try:
            self._meet_faults(path)
            for method, pattern, act in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    act(self, **match.groupdict())
            self.error(404, "", f"no such page: {path}")
        except _Answered:
            pass

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _dispatch

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _meet_faults(self, path: str) -> None:
        for fault in self.hub.faults:
            if fault.times and re.fullmatch(fault.method, self.command) and fault.path.search(path):
                fault.times -= 1
                fault.act(self)

    def answer(
        self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send an answer and leave."""
        self.send_response(status)
        given = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.cut else body)
        if self.cut:
            self.close_connection = True
            self.connection.close()
        raise _Answered

    def json(self, content: Any, status: int = 200) -> None:
        """Send JSON and leave."""
        self.answer(status, json.dumps(content).encode(), "application/json")

    def error(self, status: int, code: str, message: str) -> None:
        """Send an error as the Hub words it, and leave."""
        headers = {"X-Error-Code": code} if code else {}
        headers["X-Error-Message"] = message
        body = json.dumps({"error": message}).encode()
        self.answer(status, body, "application/json", headers)

    def sent(self) -> Any:
        """The request's JSON."""
        return json.loads(self.body or b"{}")

    def owner_only(self) -> None:
        """Refuse whoever doesn't bring the token."""
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.error(401, "", "Invalid username or password.")

    def found(self, kind: str, name: str, revision: str = "main") -> Repo:
        """The repository, or a redirect or refusal in its place."""
        moved = self.hub.aliases.get((kind, name))
        if moved:
            location = self.path.replace(name, moved, 1)
            self.answer(307, b"", "text/plain", {"Location": location})
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self._may_see()):
            self.error(404 if self._may_see() else 401, "RepoNotFound", "Repository not found")
        assert repo is not None
        if revision in repo.branches:
            return repo.branches[revision]
        if revision != "main" and revision not in {c.oid for c in repo.commits}:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    def _may_see(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"


def _whoami(h: _Handler) -> None:
    h.owner_only()
    token = {"displayName": "test", "role": "write"}
    h.json({"type": "user", "name": h.hub.user, "orgs": [], "auth": {"accessToken": token}})


def _create(h: _Handler) -> None:
    h.owner_only()
    asked = h.sent()
    kind, owner = asked.get("type") or "model", asked.get("organization") or h.hub.user
    name = f"{owner}/{asked['name']}"
    if owner != h.hub.user:
        h.error(403, "", f"You don't have the rights to create a {kind} under {owner}")
    where = {"url": f"{h.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"}
    if (kind, name) in h.hub.repos:
        h.json({**where, "error": "You already created this model repo"}, 409)
    repo = h.hub.add_repo(kind, name, {".gitattributes": b"*.safetensors filter=lfs\n"})
    repo.private = bool(asked.get("private")) or asked.get("visibility") == "private"
    h.json(where)


def _delete(h: _Handler) -> None:
    h.owner_only()
    asked = h.sent()
    kind, name = asked.get("type") or "model", f"{asked['organization']}/{asked['name']}"
    h.found(kind, name)
    del h.hub.repos[kind, name]
    h.json({})


def _branch(h: _Handler, kind: str, name: str, branch: str) -> None:
    h.owner_only()
    repo = h.found(kind, name)
    if branch in repo.branches:
        h.error(409, "", f"Reference already exists: {branch}")
    repo.branch(branch)
    h.json({})


def _validate_yaml(h: _Handler) -> None:
    content = h.sent()["content"]
    front = re.match(r"---\n(.*?)\n---\s*(\n|$)", content, re.DOTALL)
    try:
        data = yaml.safe_load(front[1]) if front else {}
        fault = "" if isinstance(data, dict) else "metadata is not a mapping"
        # One of the Hub's rules, to have one: a licence is one of a list.
        if not fault and data.get("license") not in (None, "apache-2.0", "mit", "other"):
            fault = '"license" must be one of [apache-2.0, mit, other]'
    except yaml.YAMLError as error:
        fault = str(error)
    h.json({"errors": [{"message": fault}] if fault else [], "warnings": []}, 400 if fault else 200)


def _preupload(h: _Handler, kind: str, name: str, revision: str) -> None:
    h.owner_only()
    repo = h.found(kind, name, revision)
    rows = []
    for file in h.sent()["files"]:
        large = file["path"].endswith(_LFS_SUFFIXES) or file["size"] > _LFS_SIZE
        row = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
        row["shouldIgnore"] = False
        if file["path"] in repo.files:
            row["oid"] = _etag(file["path"], repo.files[file["path"]])
        rows.append(row)
    h.json({"files": rows})


def _lfs_batch(h: _Handler, name: str, datasets: str | None) -> None:
    h.owner_only()
    h.found(_kind(datasets), name)
    objects = []
    for asked in h.sent()["objects"]:
        entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in h.hub.uploads:
            place = f"{h.hub.endpoint}/lfs/{asked['oid']}"
            entry["actions"] = {
                "upload": {"href": place, "header": {}},
                "verify": {"href": f"{place}/verify", "header": {}},
            }
        objects.append(entry)
    h.json({"transfer": "basic", "objects": objects})


def _lfs_put(h: _Handler, oid: str) -> None:
    if hashlib.sha256(h.body).hexdigest() != oid:
        h.error(400, "", "content doesn't match its oid")
    h.hub.uploads[oid] = h.body
    h.answer(200, b"", "text/plain")


def _lfs_verify(h: _Handler, oid: str) -> None:
    stored = h.hub.uploads.get(oid)
    if stored is None or len(stored) != h.sent()["size"]:
        h.error(404, "", "no such object")
    h.json({})


def _commit(h: _Handler, kind: str, name: str, revision: str) -> None:
    h.owner_only()
    repo = h.found(kind, name, revision)
    lines = [json.loads(line) for line in h.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    changes: dict[str, bytes | None] = {}
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            changes[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            changes[value["path"]] = h.hub.uploads[value["oid"]]
        elif line["key"] == "deletedFile":
            changes[value["path"]] = None
    answer: dict[str, Any] = {"success": True}
    if h.query.get("create_pr") == ["1"]:
        number = sum(branch.startswith("refs/pr/") for branch in repo.branches) + 1
        repo = repo.branch(f"refs/pr/{number}")
        answer["pullRequestUrl"] = f"{h.hub.endpoint}/{name}/discussions/{number}"
    made = repo.commit(header["summary"], changes)
    place = f"{h.hub.endpoint}/{name}/commit/{made.oid}"
    h.json({**answer, "commitOid": made.oid, "commitUrl": place})


def _info(h: _Handler, kind: str, name: str, revision: str = "main") -> None:
    repo = h.found(kind, name, revision)
    files = [{"rfilename": path} for path in sorted(repo.files)]
    h.json({"id": name, "sha": repo.sha, "private": repo.private, "tags": [], "siblings": files})


def _tree(h: _Handler, kind: str, name: str, revision: str, below: str | None = None) -> None:
    repo = h.found(kind, name, revision)
    prefix = f"{below.strip('/')}/" if below and below.strip("/") else ""
    rows: dict[str, dict[str, Any]] = {}
    recursive = h.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    for path, content in sorted(repo.files.items()):
        if not path.startswith(prefix):
            continue
        folders = path[len(prefix) :].split("/")[:-1]
        for i in range(len(folders) if recursive else min(1, len(folders))):
            folder = prefix + "/".join(folders[: i + 1])
            oid = hashlib.sha1(folder.encode()).hexdigest()
            rows[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
        if recursive or not folders:
            rows[path] = _row(path, content)
    if prefix and not rows:
        h.error(404, "EntryNotFound", f"{below} does not exist on {revision}")
    h.json(list(rows.values()))


def _paths_info(h: _Handler, kind: str, name: str, revision: str) -> None:
    repo = h.found(kind, name, revision)
    if h.headers.get("Content-Type", "").startswith("application/json"):
        asked = h.sent()["paths"]
    else:
        asked = parse_qs(h.body.decode())["paths"]
    h.json([_row(path, repo.files[path]) for path in asked if path in repo.files])


def _resolve(h: _Handler, name: str, revision: str, path: str, datasets: str | None) -> None:
    repo = h.found(_kind(datasets), name, revision)
    if path not in repo.files:
        h.error(404, "EntryNotFound", "Entry not found")
    content = repo.files[path]
    etag = f'"{_etag(path, content)}"'
    headers = {"X-Repo-Commit": repo.sha, "ETag": etag, "Accept-Ranges": "bytes"}
    if _is_lfs(path, content):
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", h.headers.get("Range", ""))
    if wanted:
        start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        h.hub.resumed.append((path, start))
        h.answer(206, content[start : end + 1], "application/octet-stream", headers)
    h.answer(200, content, "application/octet-stream", headers)


def _refs(h: _Handler, kind: str, name: str) -> None:
    repo = h.found(kind, name)
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.sha}
    h.json({"branches": [main], "tags": [], "converts": []})


def _kind(datasets: str | None) -> str:
    return "dataset" if datasets else "model"


def _is_lfs(path: str, content: bytes) -> bool:
    return path.endswith(_LFS_SUFFIXES) or len(content) > _LFS_SIZE


def _etag(path: str, content: bytes) -> str:
    """What the Hub names a content by: SHA-256 for large files, git's blob id for others."""
    if _is_lfs(path, content):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _row(path: str, content: bytes) -> dict[str, Any]:
    row = {"type": "file", "path": path, "oid": _etag(path, content), "size": len(content)}
    if _is_lfs(path, content):
        row["lfs"] = {"oid": row["oid"], "size": len(content), "pointerSize": 134}
    return row


_API = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+(/[^/]+)?)"
_FILES = r"/(?P<datasets>datasets/)?(?P<name>[^/]+(/[^/]+)?)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., None]], ...] = (
    (("GET",), "/api/whoami-v2", _whoami),
    (("POST",), "/api/repos/create", _create),
    (("DELETE",), "/api/repos/delete", _delete),
    (("POST",), "/api/validate-yaml", _validate_yaml),
    (("POST",), f"{_API}/branch/(?P<branch>.+)", _branch),
    (("POST",), f"{_API}/preupload/{_REVISION}", _preupload),
    (("POST",), f"{_API}/commit/{_REVISION}", _commit),
    (("POST",), f"{_API}/paths-info/{_REVISION}", _paths_info),
    (("GET",), f"{_API}/tree/{_REVISION}(?P<below>/.*)?", _tree),
    (("GET",), f"{_API}/refs", _refs),
    (("GET",), f"{_API}/revision/{_REVISION}", _info),
    (("GET",), _API, _info),
    (("POST",), rf"{_FILES}\.git/info/lfs/objects/batch", _lfs_batch),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", _lfs_put),
    (("POST",), "/lfs/(?P<oid>[0-9a-f]{64})/verify", _lfs_verify),
    (("GET", "HEAD"), f"{_FILES}/resolve/{_REVISION}/(?P<path>.+)", _resolve),
)
