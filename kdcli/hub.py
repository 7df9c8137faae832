"""The only code that talks to the Hugging Face Hub."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdcli.errors import HubError, ModelError, UsageError

_MODEL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
# A pickle can run code when it is loaded.
_PICKLE_FILES = ["pytorch_model*.bin"]
# The Hub looks at what it was sent before it answers.
_PUSH_TIMEOUT_FACTOR = 6

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PushResult:
    """Where a push went: the repository's page, and the commit (None where nothing changed)."""

    url: str
    commit: str | None


def download_model(repo: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """Fetch a model's configuration, tokenizer and weights into the Hub cache.

    Where the Hub can't be reached, what the cache holds of that revision has to do.

    Args:
        repo: A Hub id; an old name without owner is followed to where it moved.
        revision: Branch, tag or commit; None is `main`.
        allow_pickle: Whether to fetch pickled weights too.

    Returns:
        The folder of the snapshot; whether it holds weights is not looked at.

    Raises:
        ModelError: There is no such model, or it is gated.
        HubError: The Hub can't be reached and the cache doesn't hold the model.
    """
    from huggingface_hub import snapshot_download

    with translate_hub_errors(f"the model {repo}"):
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[*_MODEL_FILES, *_PICKLE_FILES] if allow_pickle else _MODEL_FILES,
            # What lies in folders is the same model in other forms, such as ONNX.
            ignore_patterns="*/*",
        )
        return Path(folder)


def cached_model_folder(repo: str, revision: str | None = None) -> Path | None:
    """What the Hub cache holds of a model, without asking the Hub; None where that is nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def read_with_cache_fallback(read: Callable[[], _Result]) -> _Result:
    """What `read` gives, of what the caches hold first where the Hub doesn't answer at all.

    By itself `datasets` asks such a Hub again and again, for half a minute, before it looks there.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:
        asked, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            return read()
        except Exception:
            pass  # It may answer after all.
        finally:
            constants.HF_HUB_OFFLINE = asked
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
    """Create the model repository if need be, and commit `files` in one commit.

    Args:
        repo: `OWNER/NAME`.
        files: Path in the repository to file on disk.
        message: The commit's title.
        private: Whether a repository that is created is private; None is the account's default.
        revision: The branch to commit to, created where it is missing; None is `main`.
        create_pr: Open a pull request with the commit instead.

    Raises:
        UsageError: The token is missing, or may not write there; the Hub finds the card's metadata
            faulty.
        HubError: The Hub can't be reached or refuses; the repository is as it was.
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
            before = api.model_info(repo, revision=revision).sha
            commit = api.create_commit(
                repo, operations, commit_message=message, revision=revision, create_pr=create_pr
            )
        except BaseException as error:
            if not existed:
                _delete_new_empty_repo(api, repo)
            # The client asks the Hub about README.md before it sends anything.
            if "Invalid metadata" in str(error):
                *_, reason = str(error).strip().splitlines()
                raise UsageError(
                    f"The Hub refuses the card's metadata: {reason.strip(' -.')}.",
                    "Put it right in the recipe (card.license, card.language, …).",
                ) from error
            raise
        url = commit.pr_url or f"{api.endpoint}/{repo}"
        return PushResult(url, commit.oid if commit.oid != before else None)


def _delete_new_empty_repo(api: Any, repo: str) -> None:
    """Take a repository back that was made for a commit which then failed."""
    with suppress(Exception):
        names = {file.rfilename for file in api.model_info(repo).siblings or ()}
        # An answer may be lost after all has arrived.
        if names <= {".gitattributes"}:
            api.delete_repo(repo)


@contextmanager
def translate_hub_errors(resource: str, *, timeout_factor: int = 1) -> Iterator[None]:
    """Turn what the Hub's client raises about `resource` into one sentence with a way out.

    Within the block a silent Hub is waited for `timeout_factor` times as long as for a download.
    """
    from huggingface_hub import errors as hf

    try:
        with _default_request_timeout(timeout_factor):
            yield
    except hf.GatedRepoError as error:
        raise ModelError(
            f"Access to {resource} is restricted.", "Ask for it on its page, then: hf auth login."
        ) from error
    except hf.RepositoryNotFoundError as error:
        if error.response is not None and error.response.status_code == 401 and _has_no_token():
            hint = "Where it is private, log in: hf auth login."
        else:
            hint = "Check the spelling, and that your token may see it."
        raise ModelError(f"The Hub knows nothing of {resource}.", hint) from error
    except hf.RevisionNotFoundError as error:
        raise ModelError(f"The Hub has no such revision of {resource}.") from error
    except hf.HfHubHTTPError as error:
        raise _error_from_http_status(resource, error) from error
    except hf.LocalTokenNotFoundError as error:
        raise UsageError("There is no Hub token.", "Log in: hf auth login.") from error
    except hf.HFValidationError as error:
        raise UsageError(
            f"{resource.capitalize()} is neither a folder that exists nor a Hub id."
        ) from error
    except Exception as error:
        # Where the Hub failed, the client looks into its cache and tells of that alone, and of an
        # upload it tells the file alone.
        cause = error.__cause__
        if isinstance(cause, hf.HfHubHTTPError):
            raise _error_from_http_status(resource, cause) from error
        if not _is_unreachable(error) and not (cause and _is_unreachable(cause)):
            raise
        raise _error_from_no_answer(resource, error) from error


@contextmanager
def _default_request_timeout(timeout_factor: int) -> Iterator[None]:
    """Within the block no call waits for ever, as those of the client do that name no time."""
    from huggingface_hub import constants, get_session

    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT * timeout_factor

    def bound(request: Any) -> None:
        times = request.extensions["timeout"]
        request.extensions["timeout"] = {kind: t or seconds for kind, t in times.items()}

    hooks = get_session().event_hooks["request"]
    hooks.append(bound)
    try:
        yield
    finally:
        hooks.remove(bound)


def _error_from_http_status(resource: str, error: Any) -> UsageError | HubError:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return UsageError(
            f"The Hub refuses {resource} ({status}): the token is missing, wrong, or may not do that.",
            "Log in with one that may: hf auth login.",
        )
    reason = getattr(error, "server_message", None) or f"HTTP {status}"
    wait = "wait a few minutes, then " if status == 429 else ""
    return HubError(
        f"The Hub failed on {resource}: {reason}.",
        f"Nothing is lost: {wait}run the same command again.",
    )


def _error_from_no_answer(resource: str, error: BaseException) -> HubError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return HubError(
            f"HF_HUB_OFFLINE is set, and {resource} can't be had without the Hub.", "Unset it."
        )
    if "Timeout" in f"{type(error).__name__} {type(error.__cause__).__name__}":
        return HubError(
            f"The Hub didn't answer in time for {resource}.",
            "Run the same command again, with more seconds of patience where need be: "
            "HF_HUB_DOWNLOAD_TIMEOUT=60.",
        )
    return HubError(
        f"The Hub can't be reached for {resource}.",
        "Check the network (and HF_ENDPOINT), then run the same command again.",
    )


def _has_no_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is None


def _is_unreachable(error: BaseException) -> bool:
    """Whether no answer came, as against an answer that says no."""
    from huggingface_hub import errors as hf

    if isinstance(error, hf.HfHubHTTPError):
        return False
    silence = (hf.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    # The client's own HTTP library has changed its name before; its errors name its module.
    return isinstance(error, silence) or type(error).__module__.startswith("http")
