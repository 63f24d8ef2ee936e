"""Everything that can go wrong between the model and us: what its API does, what we tell, how often we ask."""

from tests.model_script import (
    Call,
    Fault,
    Script,
    Step,
    before_the_status,
    broken,
    error,
    failing_inside,
    in_pieces,
    says,
)

REJECTED, INVALID, UNPAID = (502, "upstream-rejected"), (502, "upstream-invalid"), (502, "upstream-auth")
OVERLOADED, LIMITED = (503, "model-overloaded"), (503, "model-rate-limited")

EARLY, LATE = "message_start", "content_block_delta"  # before anything was said, and after
NO_REASON = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {}}
ASKED = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}
STOP = {"type": "message_stop"}
AGAIN = {"type": "message_start", "message": {"usage": {}}}
END: list[Step] = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}, STOP]
LOST_BLOCK = {"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "x"}}


def block(**content: object) -> dict[str, object]:
    """Return the event that begins a second block of a message, or its first."""
    return {"type": "content_block_start", "index": 1, "content_block": content}


# What the model's API does, what the caller is told, and how many attempts are made.
FAULTS: dict[str, tuple[Script, tuple[int, str], int]] = {
    "error without a document": (in_pieces(400, b"[" * 60_000), REJECTED, 1),
    "400": (error(400, "invalid_request_error"), REJECTED, 1),
    "400 spend limit": (error(400, "invalid_request_error", "You have reached your API usage limits."), UNPAID, 1),
    "400 credit": (error(400, "invalid_request_error", "Your credit balance is too low"), UNPAID, 1),
    "401": (error(401, "authentication_error"), UNPAID, 1),
    "402": (error(402, "billing_error"), UNPAID, 1),
    "403": (error(403, "permission_error"), UNPAID, 1),
    "404": (error(404, "not_found_error"), REJECTED, 1),
    "413": (error(413, "request_too_large"), REJECTED, 1),
    "429": (error(429, "rate_limit_error"), LIMITED, 3),
    "429 for two minutes": (error(429, "rate_limit_error", retry_after="120"), LIMITED, 1),
    "429 with nonsense": (error(429, "rate_limit_error", retry_after="9" * 5000), LIMITED, 3),
    "429 spend limit": (error(429, "rate_limit_error", "This would exceed your spend limit."), UNPAID, 1),
    "429 spend limit in pieces": (in_pieces(429, b'{"error": {"message":', 0.02, b'"spend limit"}}'), UNPAID, 1),
    "401 cut off": (in_pieces(401, b"{", Fault.CUT), UNPAID, 1),
    "529 that falls silent": (in_pieces(529, b"{", Fault.STALL), OVERLOADED, 3),
    "529 without a document": (in_pieces(529, b"<html>"), OVERLOADED, 3),
    "500": (error(500, "api_error"), OVERLOADED, 3),
    "502 of a proxy": (error(502, "unheard_of"), OVERLOADED, 3),
    "504": (error(504, "timeout_error"), OVERLOADED, 3),
    "529": (error(529, "overloaded_error"), OVERLOADED, 3),
    "529 never to be retried": (error(529, "overloaded_error", x_should_retry="false"), REJECTED, 1),
    "a redirect": (error(307, "unheard_of", location="http://127.0.0.1:1/"), REJECTED, 1),
    "reset": (before_the_status(Fault.RESET), OVERLOADED, 3),
    "end before the status": (before_the_status(Fault.CUT), OVERLOADED, 3),
    "silence before the status": (before_the_status(Fault.STALL), INVALID, 3),
    "no event at all": (in_pieces(200), INVALID, 3),
    "early error": (broken(EARLY, failing_inside("overloaded_error")), OVERLOADED, 3),
    "early limit": (broken(EARLY, failing_inside("rate_limit_error")), LIMITED, 3),
    "early reset": (broken(EARLY, Fault.RESET), INVALID, 3),
    "early cut": (broken(EARLY, Fault.CUT), INVALID, 3),
    "early end": (broken(EARLY), INVALID, 3),
    "late error": (broken(LATE, failing_inside("overloaded_error")), OVERLOADED, 1),
    "late api_error": (broken(LATE, failing_inside("api_error")), OVERLOADED, 1),
    "late refusal": (broken(LATE, failing_inside("invalid_request_error")), REJECTED, 1),
    "late billing": (broken(LATE, failing_inside("billing_error")), UNPAID, 1),
    "late reset": (broken(LATE, Fault.RESET), INVALID, 1),
    "late cut": (broken(LATE, Fault.CUT), INVALID, 1),
    "late silence": (broken(LATE, Fault.STALL), INVALID, 1),
    "late end": (broken(LATE), INVALID, 1),
    "end before message_stop": (broken("message_delta"), INVALID, 1),
    "no stop_reason": (broken("content_block_stop", NO_REASON, STOP), INVALID, 1),
    "no message_delta": (broken("content_block_stop", STOP), INVALID, 1),
    "a block that never began": (broken(LATE, LOST_BLOCK), INVALID, 1),
    "a call without its end": (
        broken("content_block_delta", ASKED, STOP, of=says(Call("stock", '{"item'))),
        INVALID,
        1,
    ),
    "no JSON": (broken(LATE, b"event: x\ndata: {canary\n\n"), INVALID, 1),
    "no UTF-8": (broken(LATE, b"data: \xff\n\n"), INVALID, 1),
    "no object": (broken(LATE, b"data: [1]\n\n"), INVALID, 1),
    "no type": (broken(LATE, b"data: {}\n\n"), INVALID, 1),
    "bottomless": (broken(LATE, b"data: " + b"[" * 100_000 + b"\n\n"), INVALID, 1),
    "a block without its text": (broken(EARLY, block(type="text"), *END), INVALID, 1),
    "a text that is none": (broken(EARLY, block(type="text", text=7), *END), INVALID, 1),
    "a call without an id": (broken(LATE, block(type="tool_use", name="stock", input={}), *END), INVALID, 1),
    "a call of a number": (broken(LATE, block(type="tool_use", id=7, name="stock", input={}), *END), INVALID, 1),
    "a block of no type": (broken(EARLY, block(type=7), *END), INVALID, 1),
    "a message within a message": (broken("content_block_stop", AGAIN, *END), INVALID, 1),
    "a delta of no kind": (broken(LATE, {"type": "content_block_delta", "index": 0, "delta": {}}), INVALID, 1),
}

# Why the model's API says a message ended, and why we say the turn did.
STOP_REASONS = {
    "end_turn": "end_turn",
    "stop_sequence": "end_turn",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
    "tool_use": "end_turn",  # without a call there is nothing to do
    "unheard_of": "end_turn",
}
