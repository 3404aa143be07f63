"""Post through the HTTP client, and break connections off."""

import asyncio
import socket
import struct
from datetime import timedelta

from receiver.net.http_client import HttpClient, HttpResponse

TIMEOUT = timedelta(seconds=60)
SHORT_TIMEOUT = timedelta(milliseconds=150)


async def post(
    http_client: HttpClient, url: str, *, content: bytes = b"{}", total: timedelta = TIMEOUT, limit: int = 4096
) -> HttpResponse:
    return await http_client.request("POST", url, content=content, time_limit=total, max_body=limit)


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """Break a connection off as a crashing host or a firewall does."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
