"""The headers that every answer carries, as a caller finds them."""

from collections.abc import Mapping

SECURITY = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}


def missing(headers: Mapping[str, str]) -> dict[str, str | None]:
    """Return what is wrong with the headers of an answer, names in lower case; nothing where all is well.

    A header that is there twice shows as one of two values.
    """
    wrong: dict[str, str | None] = {
        name: headers.get(name) for name, value in SECURITY.items() if headers.get(name) != value
    }
    unwanted = [name for name in headers if name in ("server", "x-powered-by") or name.startswith("access-control-")]
    return wrong | {name: headers[name] for name in unwanted} | ({} if "x-request-id" in headers else {"id": None})
