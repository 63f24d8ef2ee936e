"""The floor of the cold start: FastAPI and Mangum with one route."""

from fastapi import FastAPI
from mangum import Mangum

app = FastAPI()


@app.get("/")
async def hello() -> dict[str, str]:
    """Say hello."""
    return {"hello": "world"}


handler = Mangum(app, lifespan="off")
