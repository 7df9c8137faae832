"""Permissions of a recipe's teacher: to run code, and to send texts and a key to a host.

A recipe may come from anyone, so it can't grant permissions. Only the command's flags, the
parameters of the Python API and the user's own configuration file can.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdcli.errors import RecipeError, UsageError
from kdcli.recipe import strict_yaml
from kdcli.recipe.black_box_teachers import FunctionTeacherConfig, LLMTeacherConfig
from kdcli.recipe.endpoint_urls import API_KEY_VARIABLE_BY_HOST, is_loopback_host, url_host

_ALLOWED_HOST_PATTERN = re.compile(
    r"(?P<host>[a-z0-9._:-]+)(=(?P<variable>[a-z_][a-z0-9_]*))?", re.ASCII | re.IGNORECASE
)
_CONFIG_KEY = "allow_endpoints"
# Local servers for OpenAI's protocol read OpenAI's variable.
_LOOPBACK_KEY_VARIABLE = "OPENAI_API_KEY"


def require_code_allowed(config: FunctionTeacherConfig, *, allow_code: bool) -> None:
    """Refuse a recipe's function unless the user allows code.

    Raises:
        RecipeError: It isn't allowed.
    """
    if not allow_code:
        raise RecipeError(
            f"teacher.function: {config.function} is code that the recipe would run.",
            "If you trust it, add --allow-code.",
        )


def resolve_api_key(config: LLMTeacherConfig, allow_endpoints: Iterable[str]) -> str | None:
    """Return the API key that may be sent to a recipe's endpoint, or None.

    Args:
        config: Names the URL, and the environment variable that holds the key.
        allow_endpoints: Hosts that texts may be sent to: HOST, or HOST=VARIABLE to send the value
            of that environment variable too. The user's configuration file adds more.

    Raises:
        RecipeError: The user didn't allow the host, or the variable.
        UsageError: The permissions are malformed, or the variable holds no key.
    """
    host, name = url_host(config.url), config.api_key_env
    allowed = _parse_allowed_hosts((*allow_endpoints, *_hosts_allowed_in_config()))
    is_local = is_loopback_host(host)
    if not is_local and host not in allowed:
        raise RecipeError(
            f"teacher.url: the recipe would send the texts to {host}.",
            f"If you trust it, add --allow-endpoint {host}.",
        )
    key = "" if name is None else os.environ.get(name, "").strip()
    if not key:
        return None
    default_variable = _LOOPBACK_KEY_VARIABLE if is_local else API_KEY_VARIABLE_BY_HOST.get(host)
    if name != default_variable and name not in allowed.get(host, ()):
        raise RecipeError(
            f"teacher.api_key_env: the recipe would send the value of {name} to {host}.",
            f"If you want that, add --allow-endpoint {host}={name}; for no key: api_key_env: null.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"The environment variable {name} holds no key: it has spaces, line ends or other "
            "characters that no HTTP header allows."
        )
    return key


def _parse_allowed_hosts(allowed_hosts: Iterable[str]) -> dict[str, set[str]]:
    """Parse permissions into the variables that each host may get."""
    found: dict[str, set[str]] = {}
    for text in allowed_hosts:
        parts = _ALLOWED_HOST_PATTERN.fullmatch(text.replace("[", "").replace("]", ""))
        host = "" if parts is None else parts["host"].lower()
        if parts is None or (host.count(":") == 1):
            raise UsageError(
                f"--allow-endpoint {text} is not HOST or HOST=VARIABLE.",
                "Write api.example.com or api.example.com=EXAMPLE_KEY, without port and https://.",
            )
        found.setdefault(host, set()).update(filter(None, [parts["variable"]]))
    return found


def user_config_file() -> Path:
    """Return the user's configuration file: `$KD_CONFIG`, or `kd/config.yaml` in `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(os.environ.get("KD_CONFIG") or f"{base}/kd/config.yaml"))  # noqa: PTH111


def _hosts_allowed_in_config() -> list[str]:
    file = user_config_file()
    if not file.is_file():
        if os.environ.get("KD_CONFIG"):
            raise UsageError(f"KD_CONFIG: there is no file {file}.")
        return []
    try:
        content: Any = strict_yaml.parse_yaml(file.read_text(encoding="utf-8-sig"), str(file)).value
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} can't be read: {error}.") from error
    except RecipeError as error:
        raise UsageError(error.message, error.hint) from error
    hosts = content.get(_CONFIG_KEY, []) if isinstance(content, Mapping) else content
    if hosts is None:
        return []
    known = not isinstance(content, Mapping) or not content.keys() - {_CONFIG_KEY}
    if not known or not isinstance(hosts, list) or not all(isinstance(h, str) for h in hosts):
        raise UsageError(
            f"{file} is not a kd configuration: it has one key, {_CONFIG_KEY}, a list of hosts.",
            f"Such as: {_CONFIG_KEY}: [api.example.com, llm.example.com=EXAMPLE_KEY].",
        )
    return hosts
