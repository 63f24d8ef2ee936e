"""`python -m benchmarks.server FD MODULE:FACTORY`: an app under uvicorn, with the options of `python -m app`.

The floors have uvicorn's own protocol; ours is part of what is measured.
"""

import socket
import sys

import uvicorn

from app.connections import LimitedProtocol

if __name__ == "__main__":
    _, descriptor, target = sys.argv
    options = uvicorn.Config(
        target,
        factory=True,
        loop="uvloop",
        http=LimitedProtocol if target.startswith("benchmarks.ours:") else "httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
    )
    uvicorn.Server(options).run(sockets=[socket.socket(fileno=int(descriptor))])
