"""Exit 0 when this container answers 200 on /healthz, else 1. Docker's health check; the image has no curl."""

import http.client
import os
import sys


def main() -> int:
    """Ask once. The limit is below the Dockerfile's own, so that the reason is printed instead of lost."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or 8000), timeout=2)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        print(f"/healthz did not answer: {exc}", file=sys.stderr)
        return 1
    return 0 if status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
