"""The usual stack, for comparison: boto3 in threads, Mangum with its default lifespan.

It makes the same three calls with the same items, and less of everything else: no history is decoded, nothing is
logged, no limit or deadline is kept. The client is made once, at import, as its documentation advises.
"""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import boto3
from fastapi import FastAPI
from mangum import Mangum
from pydantic import BaseModel

TABLE = os.environ["SESSIONS_TABLE"]
client = boto3.client("dynamodb")  # None once nothing is to be called


class ChatRequest(BaseModel):
    """The body of a request."""

    message: str
    session_id: str | None = None


class ChatResponse(BaseModel):
    """The body of a response."""

    answer: str
    session_id: str
    turn: int


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Do nothing, so that only the calls count."""
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(body: ChatRequest) -> ChatResponse:
    """Read the session, claim a turn, store it."""
    session_id = body.session_id or str(uuid.uuid4())
    pk = {"S": f"anonymous/{session_id}"}
    values = {":pk": pk}
    page = await _call(
        "query",
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues=values,
        ScanIndexForward=False,
        ConsistentRead=True,
        Limit=20,
    )
    turn = int(page["Items"][0]["turn"]["N"]) + 1 if page["Items"] else 1
    run = {"S": uuid.uuid4().hex}
    item = {"pk": pk, "turn": {"N": str(turn)}, "run": run, "req": run, "expires": {"N": str(int(time.time()))}}
    lease = {"lease": {"N": f"{time.time():.3f}"}}
    await _call("put_item", ConditionExpression="attribute_not_exists(pk)", Item=item | lease)
    answer = ChatResponse(answer=f"You said: {body.message}", session_id=session_id, turn=turn)
    await _call(
        "put_item",
        ConditionExpression="run = :run",
        ExpressionAttributeValues={":run": run},
        Item=item | {"body": {"S": answer.model_dump_json()}},
    )
    return answer


async def _call(operation: str, **parameters: object) -> Any:  # noqa: ANN401 boto3 has no types
    if client is None:
        return {"Items": []}
    return await asyncio.to_thread(getattr(client, operation), TableName=TABLE, **parameters)


def build() -> FastAPI:
    """Return the app."""
    return app


handler = Mangum(app)
