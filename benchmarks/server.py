"""`python -m benchmarks.server FD MODULE:FACTORY`: an app under uvicorn, with the options of `python -m app`."""

import socket
import sys

import uvicorn

if __name__ == "__main__":
    _, descriptor, target = sys.argv
    options = uvicorn.Config(
        target,
        factory=True,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
    )
    uvicorn.Server(options).run(sockets=[socket.socket(fileno=int(descriptor))])
