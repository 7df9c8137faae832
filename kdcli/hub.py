"""Download from and push to the Hugging Face Hub; no other module talks to it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdcli.errors import ModelError, RemoteServiceError, UsageError

_MODEL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
# A pickle can run code when it is loaded.
_PICKLE_FILES = ["pytorch_model*.bin"]
# The Hub validates an upload before it answers.
_PUSH_TIMEOUT_FACTOR = 6

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PushResult:
    """URL of the repository or pull request, and the new commit (None if nothing changed)."""

    url: str
    commit: str | None


def download_model(repo: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """Download a model's configuration, tokenizer and weights into the Hub cache.

    If the Hub can't be reached, the cached files of that revision are used.

    Args:
        repo: Hub id; an old name without owner is redirected.
        revision: Branch, tag or commit; None is `main`.
        allow_pickle: Also download pickled weights.

    Returns:
        Folder of the snapshot, which may lack weights.

    Raises:
        ModelError: The model does not exist or is gated.
        RemoteServiceError: The Hub can't be reached and the model is not in the cache.
    """
    from huggingface_hub import snapshot_download

    with translate_hub_errors(f"the model {repo}"):
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[*_MODEL_FILES, *_PICKLE_FILES] if allow_pickle else _MODEL_FILES,
            # Subfolders hold the same model in other formats, such as ONNX.
            ignore_patterns="*/*",
        )
        return Path(folder)


def cached_model_folder(repo: str, revision: str | None = None) -> Path | None:
    """Folder of a model in the Hub cache, without network access; None if it is not cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def read_with_cache_fallback(read: Callable[[], _Result]) -> _Result:
    """Call `read`, offline at first if the Hub does not answer.

    Without this, `datasets` retries for half a minute before it reads its cache.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:
        was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            return read()
        except Exception:
            pass  # Not in the cache; the Hub may answer now.
        finally:
            constants.HF_HUB_OFFLINE = was_offline
    return read()


def push_to_hub(
    repo: str,
    files: Mapping[str, Path],
    message: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> PushResult:
    """Commit `files` to a model repository in one commit, creating the repository if needed.

    Args:
        repo: `OWNER/NAME`.
        files: Local file by path in the repository.
        message: The commit's title.
        private: Make a new repository private; None is the account's default.
        revision: Branch to commit to, created if needed; None is `main`.
        create_pr: Open a pull request instead of committing to the branch.

    Raises:
        UsageError: The token is missing or lacks write access, or the Hub rejects the card's
            metadata.
        RemoteServiceError: The Hub can't be reached or refuses; the repository is unchanged.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
        for name, path in sorted(files.items())
    ]
    api = HfApi()
    with translate_hub_errors(f"the repository {repo}", timeout_factor=_PUSH_TIMEOUT_FACTOR):
        existed = api.repo_exists(repo)
        if not existed:
            api.create_repo(repo, private=private)
        try:
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            previous_commit = api.model_info(repo, revision=revision).sha
            commit = api.create_commit(
                repo, operations, commit_message=message, revision=revision, create_pr=create_pr
            )
        except BaseException as error:
            if not existed:
                _delete_new_empty_repo(api, repo)
            # The client lets the Hub validate README.md before it sends anything.
            if "Invalid metadata" in str(error):
                *_, reason = str(error).strip().splitlines()
                raise UsageError(
                    f"The Hub rejects the card's metadata: {reason.strip(' -.')}.",
                    "Correct it in the recipe (card.license, card.language, …).",
                ) from error
            raise
        url = commit.pr_url or f"{api.endpoint}/{repo}"
        return PushResult(url, commit.oid if commit.oid != previous_commit else None)


def _delete_new_empty_repo(api: Any, repo: str) -> None:
    """Delete a repository that was created for a commit which then failed."""
    with suppress(Exception):
        names = {file.rfilename for file in api.model_info(repo).siblings or ()}
        # The commit may have arrived although its reply was lost.
        if names <= {".gitattributes"}:
            api.delete_repo(repo)


@contextmanager
def translate_hub_errors(resource: str, *, timeout_factor: int = 1) -> Iterator[None]:
    """Turn the Hub client's exceptions into errors of kd with one sentence and a hint.

    Args:
        resource: What is requested, as in "the model bert-base-uncased".
        timeout_factor: Multiple of the download timeout to wait for the Hub.
    """
    from huggingface_hub import errors as hf

    try:
        with _default_request_timeout(timeout_factor):
            yield
    except hf.GatedRepoError as error:
        raise ModelError(
            f"Access to {resource} is restricted.",
            "Request access on its page, then log in: hf auth login.",
        ) from error
    except hf.RepositoryNotFoundError as error:
        if error.response is not None and error.response.status_code == 401 and _has_no_token():
            hint = "If it is private, log in: hf auth login."
        else:
            hint = "Check the spelling, and whether your token has access."
        raise ModelError(f"The Hub has no such repository: {resource}.", hint) from error
    except hf.RevisionNotFoundError as error:
        raise ModelError(f"The Hub has no such revision of {resource}.") from error
    except hf.HfHubHTTPError as error:
        raise _error_from_http_status(resource, error) from error
    except hf.LocalTokenNotFoundError as error:
        raise UsageError("There is no Hub token.", "Log in: hf auth login.") from error
    except hf.HFValidationError as error:
        raise UsageError(
            f"{resource.capitalize()} is neither an existing folder nor a Hub id."
        ) from error
    except Exception as error:
        # When the Hub fails, the client reports only the missing cache entry, and for an upload
        # only the file.
        cause = error.__cause__
        if isinstance(cause, hf.HfHubHTTPError):
            raise _error_from_http_status(resource, cause) from error
        if not _is_unreachable(error) and not (cause and _is_unreachable(cause)):
            raise
        raise _error_from_no_answer(resource, error) from error


@contextmanager
def _default_request_timeout(timeout_factor: int) -> Iterator[None]:
    """Give requests a timeout within the block; some of the client's calls have none."""
    from huggingface_hub import constants, get_session

    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT * timeout_factor

    def set_timeout(request: Any) -> None:
        times = request.extensions["timeout"]
        request.extensions["timeout"] = {kind: t or seconds for kind, t in times.items()}

    hooks = get_session().event_hooks["request"]
    hooks.append(set_timeout)
    try:
        yield
    finally:
        hooks.remove(set_timeout)


def _error_from_http_status(resource: str, error: Any) -> UsageError | RemoteServiceError:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return UsageError(
            f"The Hub refuses access to {resource} ({status}): "
            "the token is missing, wrong, or lacks permission.",
            "Log in with a token that has permission: hf auth login.",
        )
    reason = getattr(error, "server_message", None) or f"HTTP {status}"
    wait = "wait a few minutes, then " if status == 429 else ""
    return RemoteServiceError(
        f"The Hub failed on {resource}: {reason}.",
        f"Nothing is lost: {wait}run the same command again.",
    )


def _error_from_no_answer(resource: str, error: BaseException) -> RemoteServiceError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return RemoteServiceError(
            f"HF_HUB_OFFLINE is set, and {resource} is not in the cache.", "Unset it."
        )
    if "Timeout" in f"{type(error).__name__} {type(error.__cause__).__name__}":
        return RemoteServiceError(
            f"The Hub didn't answer in time for {resource}.",
            "Run the same command again, if needed with a longer timeout in seconds: "
            "HF_HUB_DOWNLOAD_TIMEOUT=60.",
        )
    return RemoteServiceError(
        f"The Hub can't be reached for {resource}.",
        "Check the network (and HF_ENDPOINT), then run the same command again.",
    )


def _has_no_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is None


def _is_unreachable(error: BaseException) -> bool:
    """Return True if the Hub did not answer, False if it answered with an error."""
    from huggingface_hub import errors as hf

    if isinstance(error, hf.HfHubHTTPError):
        return False
    no_answer = (hf.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    # By module name, because the client has changed its HTTP library before.
    return isinstance(error, no_answer) or type(error).__module__.startswith("http")
