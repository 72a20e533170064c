"""How a request's body is read: JSON, bounded, strict."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request

from mooring.core.errors import InvalidJson, TooLarge, UnsupportedMediaType

MAX_BODY_BYTES = 8 << 20  # a thousand documents fit


async def read_json(request: Request, *media_types: str) -> Any:
    """Return the body as dict, list, str, number or None.

    Raises:
        UnsupportedMediaType: the content type is neither JSON nor one of `media_types`.
        TooLarge: more than MAX_BODY_BYTES.
        InvalidJson: not JSON, or a text in it holds a NUL or half a surrogate pair.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("application/json", *media_types):
        raise UnsupportedMediaType()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.")
    return decode(bytes(body))


def decode(body: bytes) -> Any:
    """Return what the JSON text says.

    Raises:
        InvalidJson: it is not JSON, or a text in it holds a NUL or half a surrogate pair.
    """
    try:
        data = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from None
    except UnicodeDecodeError:
        raise InvalidJson("The body is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None
    if b"\\u0000" in body and "\x00" in _texts(data):
        raise InvalidJson("A text in the body holds a NUL character.")
    return data


def _texts(data: Any) -> str:
    if isinstance(data, str):
        return data
    if isinstance(data, dict):
        return "".join(_texts(part) for pair in data.items() for part in pair)
    return "".join(_texts(part) for part in data) if isinstance(data, list) else ""
