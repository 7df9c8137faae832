"""The page to try texts: one file, with a policy that allows its own script and style alone."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import Response

_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_response() -> Response:
    """Return the page with its headers."""
    page, policy = _load_page()
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return Response(page, headers=headers, media_type="text/html")


@cache
def _load_page() -> tuple[bytes, str]:
    """Return the page, and the policy with the hashes of its script and style."""
    page = files("kdcli.serving").joinpath("page.html").read_text(encoding="utf-8")
    policy = _POLICY.format(script=_hash(page, "script"), style=_hash(page, "style"))
    return page.encode(), policy


def _hash(page: str, tag: str) -> str:
    """Return the hash of an element's content as a policy names it."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
