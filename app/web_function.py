"""A Lambda Web Function: Lambda starts a server, sends it requests over HTTP, several at once, and ends it.

It says what it is by AWS_LAMBDA_HTTP_ENDPOINT alone. The process is not frozen between two requests, so it warms up and
drains as a container does; but it has one second from SIGTERM to its end, and no balancer that must see it leave.
https://docs.aws.amazon.com/lambda/latest/dg/web-functions-env-lifecycle.html
"""

import re

GRACE_S = 0.9
LONGEST_S = 900  # the most that `timeoutSeconds` of a revision can be
MARGIN_S = 3  # of that, for what comes before a turn, and to store its answer and hand it over
_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


def address(endpoint: str) -> tuple[str, int]:
    """Return the host and the port of an endpoint.

    Raises:
        ValueError: it is not a host, or an IPv6 address in brackets, and a port from 1 to 65535.
    """
    parts = _ENDPOINT.fullmatch(endpoint)
    if parts is None or not 1 <= int(parts[3]) <= 65_535:  # noqa: PLR2004 as the docstring says
        raise ValueError
    return parts[1] or parts[2], int(parts[3])


def checked(endpoint: str | None) -> str | None:
    """Return the endpoint, or raise ValueError as `address` does."""
    if endpoint is not None:
        address(endpoint)
    return endpoint


def problems(timeout_s: float | None, unused: list[str]) -> list[str]:
    """Return what is wrong with the settings of a Web Function.

    What ends a request there is a number of its revision, which nobody tells the process. A turn that takes longer is
    cut, its stream too, so how long one may take is not left to a default.

    timeout_s: the longest a turn may take, where that is set
    unused:    the variables of the stop that are set: how a Web Function stops is Lambda's
    """
    found = [f"{name} has no effect on a Web Function" for name in unused]
    if timeout_s is None:
        found.append(f"AGENT_TIMEOUT_S is required on a Web Function: timeoutSeconds of its revision less {MARGIN_S}")
    elif timeout_s > LONGEST_S - MARGIN_S:
        found.append(f"AGENT_TIMEOUT_S must be at most {LONGEST_S - MARGIN_S} on a Web Function")
    return found
