"""Addresses of APIs: which are sound, which stay on this machine, and whose keys go where."""

import ipaddress
import re

_URL_PATTERN = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*)"
    r"(?P<port>:[0-9]{1,5})?(?P<path>/[^\s?#\\]*)?",
    re.ASCII | re.IGNORECASE,
)
API_KEY_VARIABLE_BY_HOST = {
    "api.anthropic.com": "ANTHROPIC_API_KEY",
    "api.cerebras.ai": "CEREBRAS_API_KEY",
    "api.cohere.ai": "COHERE_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "api.fireworks.ai": "FIREWORKS_API_KEY",
    "api.groq.com": "GROQ_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.openai.com": "OPENAI_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.x.ai": "XAI_API_KEY",
    "generativelanguage.googleapis.com": "GEMINI_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
}
"""Public APIs, and the environment variable in which each one's own documentation keeps its key."""


def validate_endpoint_url(url: str) -> str:
    """The address without a last slash.

    Raises:
        ValueError: It is no address, could hold a secret, or would send texts and key unencrypted.
    """
    if "?" in url or "#" in url:
        raise ValueError("has a query: kd sends the key in a header (teacher.api_key_env)")
    found = _URL_PATTERN.fullmatch(url)
    if found is None or int((found["port"] or ":0")[1:]) > 65535:
        raise ValueError("is no address such as https://api.example.com/v1, without a password")
    if found["scheme"].lower() == "http" and not is_loopback_host(url_host(url)):
        raise ValueError("is not encrypted: only a server on this machine may have http://")
    return url.rstrip("/")


def url_host(url: str) -> str:
    """The host of an address that `checked` let pass, in small letters and without brackets."""
    found = _URL_PATTERN.fullmatch(url)
    if found is None:
        raise ValueError("is no address")
    return found["host"].lower().strip("[]")


def is_loopback_host(host: str) -> bool:
    """Whether what is sent to a host stays on this machine, by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def redact_endpoint_url(url: str) -> str:
    """What may be published of an address: a known provider's host, and nothing of any other."""
    host = url_host(url)
    return host if host in API_KEY_VARIABLE_BY_HOST else "a private endpoint"
