"""API URLs: validation, loopback hosts, and the providers' key variables."""

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
"""Public APIs, and the environment variable that each provider documents for its key."""


def validate_endpoint_url(url: str) -> str:
    """Return the URL without its trailing slash.

    Raises:
        ValueError: It is malformed, may hold a secret, or would send texts and key unencrypted.
    """
    if "?" in url or "#" in url:
        raise ValueError("has a query: kd sends the key in a header (teacher.api_key_env)")
    match = _URL_PATTERN.fullmatch(url)
    if match is None or int((match["port"] or ":0")[1:]) > 65535:
        raise ValueError("is not a URL such as https://api.example.com/v1, without a password")
    if match["scheme"].lower() == "http" and not is_loopback_host(url_host(url)):
        raise ValueError("is not encrypted: http:// is for servers on this machine only")
    return url.rstrip("/")


def url_host(url: str) -> str:
    """Return the host of a valid URL, in lower case and without brackets."""
    match = _URL_PATTERN.fullmatch(url)
    if match is None:
        raise ValueError("is not a URL")
    return match["host"].lower().strip("[]")


def is_loopback_host(host: str) -> bool:
    """Return whether a host is this machine, by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def publishable_endpoint_host(url: str) -> str:
    """Return the publishable part of a URL: a known provider's host, nothing of any other."""
    host = url_host(url)
    return host if host in API_KEY_VARIABLE_BY_HOST else "a private endpoint"
