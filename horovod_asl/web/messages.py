"""What a page sends over its WebSocket, checked; and what it is told when something is wrong.

A binary message is a frame: the time at which it was captured, in milliseconds as a little-endian float64, then a
JPEG. A text message is an order: one JSON object, of a kind that stands below.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from horovod_asl.labels import CLASSES, MOVEMENTS

_TIME = struct.Struct("<d")
_STILL = tuple(name for name in CLASSES if name not in MOVEMENTS)
_LATEST_MS = 2.0**53
"""Above this, a float64 no longer counts single milliseconds."""

POLICY, TOO_BIG, TRY_LATER, FAILED = 1008, 1009, 1013, 1011
"""WebSocket close codes (RFC 6455, and the registry that it began)."""

TEXT_FULL = "text_full"


class BadMessageError(ValueError):
    """A message that means nothing; the text says why. The page may go on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class FarewellError(Exception):
    """The session ends: the page is told why, then the WebSocket is closed with `close_code`."""

    def __init__(self, close_code: int, code: str, message: str) -> None:
        super().__init__(message)
        self.close_code, self.code = close_code, code


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture on its way."""

    sent_ms: float
    """When it was captured, by the page's clock."""
    jpeg: bytes


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Edit(_Order):
    """A change of the text by a button."""

    type: Literal["edit"]
    action: Literal["undo", "space", "clear"]


class ReplaceWord(_Order):
    """The last word becomes a suggested one."""

    type: Literal["edit"]
    action: Literal["replace_word"]
    word: Annotated[str, StringConstraints(pattern=r"^[A-Za-z'-]{1,40}$")]


class Calibrate(_Order):
    """The hand of the next second is this person's sign for a letter."""

    type: Literal["calibrate"]
    letter: Literal[_STILL]  # type: ignore[valid-type]


class Forget(_Order):
    """All examples of this person are deleted."""

    type: Literal["forget"]


class Practise(_Order):
    """From now on letters are read but not written, or written again."""

    type: Literal["practise"]
    on: bool


class _Speech(_Order):
    text: str


Order = Edit | ReplaceWord | Calibrate | Forget | Practise
_ORDERS: TypeAdapter[Order] = TypeAdapter(Order)


def frame_of(message: bytes) -> Frame:
    """The frame in a binary message; the JPEG is not looked at yet.

    Raises:
        BadMessageError: it is too short, or its time is none.
    """
    if len(message) <= _TIME.size:
        raise BadMessageError("bad_frame", "a frame is 8 bytes of time, then a JPEG")
    (sent_ms,) = _TIME.unpack_from(message)
    if not (math.isfinite(sent_ms) and 0 <= sent_ms < _LATEST_MS):
        raise BadMessageError("bad_frame", "the time of a frame is a number of milliseconds, 0 or more")
    return Frame(sent_ms, message[_TIME.size :])


def order_of(message: str) -> Order:
    """The order in a text message.

    Raises:
        BadMessageError: it is no JSON, or none of the orders.
    """
    try:
        return _ORDERS.validate_json(message)
    except (ValidationError, ValueError) as error:
        raise BadMessageError("bad_message", "this is no message of the page") from error


def speech_of(body: bytes, most_characters: int) -> str:
    """The text in the body of `/api/speak`, `{"text": "…"}`.

    Raises:
        BadMessageError: it is no such JSON, or the text is empty or too long.
    """
    try:
        text = _Speech.model_validate_json(body).text.strip()
    except (ValidationError, ValueError) as error:
        raise BadMessageError("bad_message", 'send {"text": "what is to be spoken"}') from error
    if not 0 < len(text) <= most_characters:
        raise BadMessageError("bad_message", f"a text to speak has 1 to {most_characters} characters")
    return text


def error_message(code: str, message: str, **more: Any) -> dict[str, Any]:
    """What a page is told when something is wrong."""
    return {"type": "error", "code": code, "message": message} | more
