"""Stores the JSON of events and pushes compressed: most of it is the same in all of them.

Zstandard is given that common part as a dictionary: an event of 770 bytes takes about 150, in a quarter of zlib's time.
Its envelope and its body repeat each other, so both are stored together, in the place of the body.

The dictionary is part of the store's format and never changes. A better one gets marks of its own.
``tests/harness/train_dictionary.py`` has made it.
"""

import threading
import zlib
from pathlib import Path

import zstandard

_ZLIB_MARK = b"\x01"  # no JSON text begins with a mark, so text that is stored as it is needs none
_ZLIB_PAIR_MARK = b"\x02"
_MARK = b"\x03"
_PAIR_MARK = b"\x04"  # of an envelope and a body, followed by the size of the envelope
_PAIR_MARKS = (_ZLIB_PAIR_MARK, _PAIR_MARK)
_MARKS = (_ZLIB_MARK, _MARK, *_PAIR_MARKS)
_MAX_SIZE = 64 * 1024
"""Larger texts are stored as they are: they are rare, and few of them are like others."""

_MAX_PAIR_SIZE = 0xFFFF
_SIZE_END = 3  # of the mark and the size before a pair
_LEVEL = 3
_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS  # without the four bytes that name the format: the mark says it
_ZLIB_WINDOW = -12  # 4 KiB, without zlib's own header and checksum
_ZLIB_DICTIONARY = (
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


class _Zstandard:
    """Compresses and restores texts. One at a time: a context of Zstandard serves one thread."""

    def __init__(self, dictionary: bytes) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _LEVEL, dict_size=len(dictionary), source_size=1000, write_dict_id=False, format=_FORMAT
        )
        shared = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_FULLDICT)
        shared.precompute_compress(compression_params=parameters)
        self._compressor = zstandard.ZstdCompressor(dict_data=shared, compression_params=parameters)
        self._decompressor = zstandard.ZstdDecompressor(dict_data=shared, format=_FORMAT)
        self._lock = threading.Lock()

    def compress(self, text: bytes) -> bytes:
        with self._lock:
            return self._compressor.compress(text)

    def decompress(self, packed: memoryview) -> bytes:
        with self._lock:
            return self._decompressor.decompress(packed)


_zstandard = _Zstandard(Path(__file__).with_name("packing.zdict").read_bytes())


def pack(text: bytes) -> bytes:
    """Return the stored form of a JSON text."""
    if len(text) > _MAX_SIZE and not text.startswith(_MARKS):
        return text
    packed = _MARK + _zstandard.compress(text)
    return packed if len(packed) < len(text) or text.startswith(_MARKS) else text


def pack_event(envelope: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return the stored forms of an event's envelope and body. That of the envelope is empty if the body's has both."""
    text = envelope + body
    if not body or len(text) > _MAX_PAIR_SIZE:
        return pack(envelope), pack(body)
    return b"", _PAIR_MARK + len(envelope).to_bytes(2, "big") + _zstandard.compress(text)


def unpack(stored: bytes) -> bytes:
    """Return the JSON text of its stored form, which an earlier version may have written without compressing it."""
    if stored.startswith(_PAIR_MARKS):
        return unpack_event(b"", stored)[1]
    return _restore(stored, 1) if stored.startswith(_MARKS) else stored


def unpack_event(envelope: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return an event's envelope and body. An envelope that was stored later is newer than the one in the pair."""
    if not body.startswith(_PAIR_MARKS):
        return unpack(envelope), unpack(body)
    size = int.from_bytes(body[1:_SIZE_END], "big")
    text = _restore(body, _SIZE_END)
    return unpack(envelope) if envelope else text[:size], text[size:]


def _restore(stored: bytes, start: int) -> bytes:
    """Restore the text that is compressed after *start*, as its mark says. An earlier version has used zlib."""
    packed = memoryview(stored)[start:]
    if stored.startswith((_MARK, _PAIR_MARK)):
        return _zstandard.decompress(packed)
    return zlib.decompressobj(_ZLIB_WINDOW, _ZLIB_DICTIONARY).decompress(packed)
