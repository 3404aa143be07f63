"""Answers messages that the SDK cannot read, such as a string with half of a surrogate pair.

The SDK only logs them, so an agent would wait for its answer for ever.
"""

import json
from types import TracebackType
from typing import Self

from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

_EXPECTED = "Expected: one JSON-RPC message in UTF-8 on each line, without lone surrogates in its strings."


class ReadableMessages:
    """The incoming messages. One that could not be read is answered with an error instead of being passed on."""

    def __init__(self, messages: ReadStream[SessionMessage | Exception], answers: WriteStream[SessionMessage]) -> None:
        """*messages* and *answers* are the streams of the SDK's server."""
        self._messages = messages
        self._answers = answers

    @property
    def last_context(self) -> object:
        """The context of the sender; the SDK reads it."""
        return getattr(self._messages, "last_context", None)

    async def receive(self) -> SessionMessage:
        """Return the next message that can be read."""
        while isinstance(received := await self._messages.receive(), Exception):
            await self._answers.send(SessionMessage(_error(received)))
        return received

    async def aclose(self) -> None:
        """Close the stream."""
        await self._messages.aclose()

    def __aiter__(self) -> Self:
        """Return the messages."""
        return self

    async def __anext__(self) -> SessionMessage:
        """Return the next message that can be read."""
        while isinstance(received := await anext(self._messages), Exception):
            await self._answers.send(SessionMessage(_error(received)))
        return received

    async def __aenter__(self) -> Self:
        """Open the stream."""
        await self._messages.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self._messages.__aexit__(kind, error, trace)


def _error(fault: Exception) -> JSONRPCError:
    """Return the error for a line that could not be read, with its id if it has one."""
    errors = fault.errors(include_url=False) if isinstance(fault, ValidationError) else []
    message = next((found for each in errors if isinstance(found := _parse(each["input"]), dict)), None)
    found = None if message is None else message.get("id")
    return JSONRPCError(
        jsonrpc="2.0",
        id=found if isinstance(found, str | int) and _is_encodable(found) else None,
        error=ErrorData(
            code=PARSE_ERROR if message is None else INVALID_REQUEST,
            message=f"The message cannot be read: {errors[0]['msg'] if errors else 'it is invalid'}. {_EXPECTED}",
        ),
    )


def _parse(whole: object) -> object:
    """Return the message of an error's input: the line, or what was read of it."""
    try:
        return json.loads(whole) if isinstance(whole, str | bytes) else whole
    except (ValueError, RecursionError):
        return None


def _is_encodable(value: str | int) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True
