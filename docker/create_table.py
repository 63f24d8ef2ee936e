"""Create the sessions' table on a local DynamoDB-compatible server. On AWS, template.yaml makes it.

compose.yaml runs this in the service's image, beside `app`; the settings are the service's own.
"""

import asyncio
import sys
import time

import aiohttp
from aiodynamo.client import Client
from aiodynamo.errors import AIODynamoError, ResourceInUse
from aiodynamo.http.aiohttp import AIOHTTP
from yarl import URL

from app.config import load_valid
from app.errors import ConfigurationError
from app.sessions.credentials import credentials
from app.sessions.dynamodb import TIMEOUT

START_S = 60.0  # the server may have been started just now, and a Java machine on a busy laptop takes its time
PAUSE_S = 0.5

# What the service reads and writes, as in template.yaml.
TABLE = {
    "KeySchema": [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "turn", "KeyType": "RANGE"},
    ],
    "AttributeDefinitions": [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "turn", "AttributeType": "N"},
        {"AttributeName": "principal", "AttributeType": "S"},
        {"AttributeName": "created", "AttributeType": "N"},
    ],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": "begun",
            "KeySchema": [
                {"AttributeName": "principal", "KeyType": "HASH"},
                {"AttributeName": "created", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["expires"]},
        }
    ],
    "BillingMode": "PAY_PER_REQUEST",
}


async def create(name: str, endpoint: str, region: str) -> None:
    """Create the table unless it exists, once the server answers."""
    give_up = time.monotonic() + START_S
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        client = Client(AIOHTTP(session), credentials(), region, URL(endpoint))
        while True:
            try:
                await client.send_request(action="CreateTable", payload={"TableName": name, **TABLE})
            except ResourceInUse:  # it exists
                return
            except (aiohttp.ClientConnectionError, TimeoutError):
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                return


def main() -> int:
    """Return 0 when the table is there, else say why not."""
    try:
        settings = load_valid()
    except ConfigurationError as exc:
        print("\n".join(exc.problems), file=sys.stderr)
        return 1
    table, endpoint, region = settings.sessions_table, settings.aws_endpoint_url_dynamodb, settings.aws_region
    if not (table and endpoint and region):
        print("SESSIONS_TABLE and AWS_ENDPOINT_URL_DYNAMODB must name a table of a local server", file=sys.stderr)
        return 1
    try:
        asyncio.run(create(table, str(endpoint), region))
    except (AIODynamoError, aiohttp.ClientError, TimeoutError, OSError) as exc:
        print(f"the table was not created: {type(exc).__name__}", file=sys.stderr)
        return 1
    print(f"the table is there: {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
