"""Stores the JSON of events and pushes compressed: most of it is the same in all of them.

zlib is given that common part as a dictionary, so a body of 270 bytes takes about 110. The dictionary is part of the
store's format and never changes. A better one gets a mark of its own.

An event's envelope and body repeat each other, so both are stored together, in the place of the body. That takes two
thirds of the time and of the space.
"""

import zlib

_MARK = b"\x01"  # no JSON text begins with a mark, so text that is stored as it is needs none
_PAIR_MARK = b"\x02"  # of an envelope and a body, followed by the size of the envelope
_MARKS = (_MARK, _PAIR_MARK)
_MAX_SIZE = 64 * 1024
"""Larger texts are stored as they are: they are rare, and compressing them takes milliseconds."""

_MAX_PAIR_SIZE = 0xFFFF
_SIZE_END = 3  # of the mark and the size before a pair
_WINDOW = -12  # 4 KiB without zlib's own header and checksum; a larger window takes longer to set up
_MEMORY = 4
_DICTIONARY = (
    b'{"code":0,"message":"SUCCEED","request_id":"","data":{"task_id":"","task_status":"submitted","task_status":'
    b'"processing","task_status":"failed","task_status_msg":"","created_at":17,"updated_at":17,"task_info":'
    b'{"external_task_id":""},"task_result":{"videos":[{"id":"","url":"https://","duration":"5"}]}}'
    b'{"event_id":"evt_0","status":"processing","message":"The remedy","alert"{"type":"task.succeed","timestamp":"202'
    b'","data":{"event_id":"evt_01k","status":"succeed","message":"","source":"callback","verified":"signature",'
    b'"verified":"none","task":{"id":"tsk_01k","kling_id":"8","external_task_id":null,"endpoint":"images/generations",'
    b'"endpoint":"videos/image2video","endpoint":"videos/text2video","endpoint":null,"label":null,"tags":{},"batch":'
    b'null,"created_at":"202"},"result":{"videos":[{"id":"8"}]}}}'
    b'{"task_id":"8","task_status":"succeed","task_status_msg":"","created_at":17,"updated_at":17,"task_info":{},'
    b'"task_result":{"images":[{"index":0,"url":"https://'
)

_compressor = zlib.compressobj(3, zlib.DEFLATED, _WINDOW, _MEMORY, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)


def pack(text: bytes) -> bytes:
    """Return the stored form of a JSON text."""
    if len(text) > _MAX_SIZE and not text.startswith(_MARKS):
        return text
    packed = _MARK + _deflate(text)
    return packed if len(packed) < len(text) or text.startswith(_MARKS) else text


def pack_event(envelope: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return the stored forms of an event's envelope and body. That of the envelope is empty if the body's has both."""
    text = envelope + body
    if not body or len(text) > _MAX_PAIR_SIZE:
        return pack(envelope), pack(body)
    return b"", _PAIR_MARK + len(envelope).to_bytes(2, "big") + _deflate(text)


def unpack(stored: bytes) -> bytes:
    """Return the JSON text of its stored form, which an earlier version may have written without compressing it."""
    if stored.startswith(_PAIR_MARK):
        return unpack_event(b"", stored)[1]
    return _inflate(memoryview(stored)[1:]) if stored.startswith(_MARK) else stored


def unpack_event(envelope: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return an event's envelope and body. An envelope that was stored later is newer than the one in the pair."""
    if not body.startswith(_PAIR_MARK):
        return unpack(envelope), unpack(body)
    size = int.from_bytes(body[1:_SIZE_END], "big")
    text = _inflate(memoryview(body)[_SIZE_END:])
    return unpack(envelope) if envelope else text[:size], text[size:]


def _deflate(text: bytes) -> bytes:
    copy = _compressor.copy()  # which has read the dictionary
    return copy.compress(text) + copy.flush()


def _inflate(packed: memoryview) -> bytes:
    return zlib.decompressobj(_WINDOW, _DICTIONARY).decompress(packed)
