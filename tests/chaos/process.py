"""What a process of the service takes of its machine, as Linux tells it from outside."""

from pathlib import Path

MIB = 1024 * 1024


def rss_bytes(pid: int) -> int:
    """Return the memory of the process that is in use."""
    return _status(pid, "VmRSS") * 1024


def threads(pid: int) -> int:
    return _status(pid, "Threads")


def open_files(pid: int) -> int:
    """Return how many file descriptors the process holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connections_to(port: int) -> int:
    """Return how many connections to the port of this machine stand, whoever holds them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(int(there.rpartition(":")[2], 16) == port and state == "01" for _, _, there, state, *_ in lines)


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
