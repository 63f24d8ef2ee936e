"""The end of a Lambda environment: an internal extension, without which the process is killed unasked.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-extensions-shutdown
"""

import http.client
import json
import logging
import os
import signal
import sys
import threading
from contextlib import suppress

log = logging.getLogger(__name__)

EXTENSION = "/2020-01-01/extension"
NAME = "agent-service-shutdown"
REGISTER_S = 2.0  # the API answers at once; init must not hang on it


def receive_sigterm(api: str) -> None:
    """Have the platform send SIGTERM before it kills the process, and end in good order then. Logs a failure.

    api: address of the Runtime API. Call it from the main thread, during init.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        identifier = _register(api)
    except (OSError, http.client.HTTPException) as exc:
        log.warning("no SIGTERM will come", extra={"reason": type(exc).__name__})
        return
    # An extension is ready, and with it the init done, once it waits for its next event. It wants none.
    threading.Thread(target=_wait, args=(api, identifier), daemon=True, name=NAME).start()


def _register(api: str) -> str:
    connection = http.client.HTTPConnection(api, timeout=REGISTER_S)
    try:
        headers = {"Lambda-Extension-Name": NAME, "Content-Type": "application/json"}
        connection.request("POST", f"{EXTENSION}/register", json.dumps({"events": []}), headers)
        answer = connection.getresponse()
        answer.read()
        identifier = answer.headers["Lambda-Extension-Identifier"]
    finally:
        connection.close()
    if answer.status != http.client.OK or not identifier:
        raise http.client.HTTPException
    return str(identifier)


def _wait(api: str, identifier: str) -> None:
    connection = http.client.HTTPConnection(api)  # for ever
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", f"{EXTENSION}/event/next", headers={"Lambda-Extension-Identifier": identifier})
        connection.getresponse()


def _end(*_: object) -> None:
    """Write out what is still to be written, and end: what Python waits for at its own exit may never end."""
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)
