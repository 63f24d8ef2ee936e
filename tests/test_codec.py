"""A done turn as bytes: where it is compressed, and what fits into no item."""

import pytest

from app.errors import DamagedTurn, ResponseTooLarge
from app.events import Turn
from app.sessions.codec import COMPRESS_OVER_BYTES, MAX_UNPACKED_BYTES, is_text, pack, unpack

EMPTY = len(pack(Turn(1, "", "")))


def turn_of(length: int) -> Turn:
    """Return a turn whose JSON text has so many bytes."""
    return Turn(1, "", "x" * (length - EMPTY))


def test_a_turn_is_compressed_from_the_first_byte_above_the_limit() -> None:
    longest, longer = (turn_of(COMPRESS_OVER_BYTES + more) for more in (0, 1))
    assert (len(pack(longest)), is_text(pack(longest))) == (COMPRESS_OVER_BYTES, True)
    assert len(pack(longer)) < COMPRESS_OVER_BYTES
    assert not is_text(pack(longer))
    assert [unpack(1, pack(each)) for each in (longest, longer)] == [longest, longer]


def test_a_turn_is_refused_from_the_first_byte_that_no_later_turn_may_read() -> None:
    longest = turn_of(MAX_UNPACKED_BYTES)
    assert unpack(1, pack(longest)) == longest
    with pytest.raises(ResponseTooLarge, match=r"^the turn is too large to be read again with each later one$"):
        pack(turn_of(MAX_UNPACKED_BYTES + 1))


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"{", b"{}", b'{"message": 7}', b"x\x9c", pack(turn_of(70_000))[:-1]],
    ids=["nothing", "no turn", "half", "empty", "parts", "no stream", "half a stream"],
)
def test_what_is_no_turn_is_damaged(body: bytes) -> None:
    with pytest.raises(DamagedTurn):
        unpack(1, body)
