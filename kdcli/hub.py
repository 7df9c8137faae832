"""The only code that talks to the Hugging Face Hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import HubError, ModelError, UsageError

# Weights only as safetensors: a pickle can run code when it is loaded.
_MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".jinja")


@dataclass(frozen=True)
class Published:
    """Where a push went: the repository's page, and the commit (None where nothing changed)."""

    url: str
    commit: str | None


def download_model(repo: str, revision: str | None = None) -> Path:
    """Fetch a model's configuration, tokenizer and safetensors weights into the Hub cache.

    Args:
        repo: A Hub id; an old name without owner is followed to where it moved.
        revision: Branch, tag or commit; None is `main`.

    Returns:
        The folder of the snapshot.

    Raises:
        ModelError: There is no such model, it is gated, or it ships no safetensors.
        HubError: The Hub can't be reached and the cache doesn't hold the model.
    """
    from huggingface_hub import HfApi, snapshot_download

    with errors(f"the model {repo}"):
        try:
            info = HfApi().model_info(repo, revision=revision)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            return Path(snapshot_download(repo, revision=revision, local_files_only=True))
        names = [f.rfilename for f in info.siblings or () if "/" not in f.rfilename]
        files = [name for name in names if name.endswith(_MODEL_FILES)]
        if not any(name.endswith(".safetensors") for name in files):
            raise ModelError(
                f"The model {repo} has no safetensors weights.",
                "Convert it first: https://huggingface.co/docs/safetensors/convert-weights.",
            )
        folder = snapshot_download(repo, revision=info.sha, allow_patterns=files)
        return Path(folder)


def push(
    repo: str, files: Mapping[str, Path], message: str, *, private: bool | None = None
) -> Published:
    """Create the model repository if need be, and commit `files` in one commit.

    Args:
        repo: `OWNER/NAME`.
        files: Path in the repository to file on disk.
        message: The commit's title.
        private: Whether a repository that is created is private; None is the account's default.

    Raises:
        UsageError: The token is missing, or may not write there.
        HubError: The Hub can't be reached or refuses; the repository is as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
        for name, path in sorted(files.items())
    ]
    api = HfApi()
    with errors(f"the repository {repo}"):
        url = api.create_repo(repo, private=private, exist_ok=True)
        before = api.model_info(repo).sha
        commit = api.create_commit(repo, operations, commit_message=message)
        return Published(str(url), commit.oid if commit.oid != before else None)


@contextmanager
def errors(what: str) -> Iterator[None]:
    """Turn what the Hub's client raises about `what` into one sentence with a way out."""
    from huggingface_hub import errors as hf

    try:
        yield
    except hf.GatedRepoError as error:
        raise ModelError(
            f"Access to {what} is restricted.", "Ask for it on its page, then: hf auth login."
        ) from error
    except hf.RepositoryNotFoundError as error:
        if error.response is not None and error.response.status_code == 401 and _no_token():
            hint = "Where it is private, log in: hf auth login."
        else:
            hint = "Check the spelling, and that your token may see it."
        raise ModelError(f"The Hub knows nothing of {what}.", hint) from error
    except hf.RevisionNotFoundError as error:
        raise ModelError(f"The Hub has no such revision of {what}.") from error
    except hf.HfHubHTTPError as error:
        raise _refusal(what, error) from error
    except hf.LocalTokenNotFoundError as error:
        raise UsageError("There is no Hub token.", "Log in: hf auth login.") from error
    except hf.HFValidationError as error:
        raise UsageError(
            f"{what.capitalize()} is neither a folder that exists nor a Hub id."
        ) from error
    except Exception as error:
        if not _is_unreachable(error):
            raise
        raise HubError(
            f"The Hub can't be reached for {what}, and the local cache doesn't hold it.",
            "Check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), then run the same command again.",
        ) from error


def _refusal(what: str, error: Any) -> UsageError | HubError:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return UsageError(
            f"The Hub refuses {what} ({status}): the token is missing, wrong, or may not do that.",
            "Log in with one that may: hf auth login.",
        )
    reason = getattr(error, "server_message", None) or f"HTTP {status}"
    return HubError(
        f"The Hub failed on {what}: {reason}.", "Nothing is lost: run the same command again."
    )


def _no_token() -> bool:
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
