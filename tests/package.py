"""The folder that the zip is made of."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> None:
    """Fill the folder, for this machine and this Python."""
    version, machine = "{}.{}".format(*sys.version_info), os.uname().machine.replace("aarch64", "arm64")
    settings = [f"ARTIFACTS_DIR={folder}", f"FOR={version}", f"ARCH={machine}", f"PYTHON={sys.executable}"]
    subprocess.run(
        ["make", "--silent", "build-AgentFunction", *settings],  # noqa: S607 it is needed for anything here
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp")},  # noqa: S108 pip's cache
        check=True,
        timeout=100,
    )
