"""The hello of bedrock-agentcore, as its documentation shows it: `python -m benchmarks.agentcore`, on PORT."""

import os

from bedrock_agentcore import BedrockAgentCoreApp  # type: ignore[import-not-found]

app = BedrockAgentCoreApp()


@app.entrypoint  # type: ignore[untyped-decorator]
def invoke(payload: dict[str, str]) -> dict[str, str]:
    """Say hello."""
    return {"answer": payload["message"]}


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]))
