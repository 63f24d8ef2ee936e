"""An LLM agent behind HTTP. `app.app` is the ASGI app that the environment describes, built on first use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    app: FastAPI


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(name)
    from app.main import build  # noqa: PLC0415 importing the package must not need a valid environment

    globals()["app"] = build()
    return globals()["app"]
