"""The simulator's results are real media files."""

import io
import re
import struct
import wave
import zlib
from datetime import timedelta
from urllib.parse import urlsplit

from harness.simulator_caller import IMAGES, Start


def chunks(png: bytes) -> dict[bytes, bytes]:
    """Parse a PNG, and check the checksum of each chunk."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (total,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert zlib.crc32(kind + body) == total
        found[kind] = body
        place += 12 + length
    return found


class TestResults:
    async def test_images_are_valid_and_all_different(self, start: Start) -> None:
        caller = await start()
        made = [await caller.create(n=2) for _ in range(2)]
        await caller.wait_until_announced(2)

        pictures = []
        for created in made:
            for image in (await caller.query(IMAGES, created["task_id"]))["task_result"]["images"]:
                answer = await caller.client.get(image["url"])
                assert answer.headers["content-type"] == "image/png"
                pictures.append(answer.content)

        assert len(set(pictures)) == 4
        for picture in pictures:
            parts = chunks(picture)
            width, height, depth, colour = struct.unpack(">IIBB", parts[b"IHDR"][:10])
            assert min(width, height) >= 300
            assert (depth, colour, len(parts[b"PLTE"])) == (8, 3, 768)
            assert len(zlib.decompress(parts[b"IDAT"])) == (width + 1) * height

    async def test_a_video_is_a_complete_container(self, start: Start) -> None:
        caller = await start()
        created = await caller.create("/v1/videos/text2video", prompt="a cat")
        await caller.wait_until_announced()
        (video,) = (await caller.query("/v1/videos/text2video", created["task_id"]))["task_result"]["videos"]

        answer = await caller.client.get(video["url"])

        film, boxes = answer.content, []
        while film:
            (length,) = struct.unpack(">I", film[:4])
            boxes.append(film[4:8])
            assert 8 <= length <= len(film)
            film = film[length:]
        assert answer.headers["content-type"] == "video/mp4"
        assert boxes == [b"ftyp", b"moov", b"mdat"]
        assert video["duration"] == "2.0"

    async def test_audio_has_its_stated_duration(self, start: Start) -> None:
        caller = await start()
        created = await caller.create("/v1/audio/text-to-audio", prompt="a cat")
        await caller.wait_until_announced()
        (sound,) = (await caller.query("/v1/audio/text-to-audio", created["task_id"]))["task_result"]["audios"]

        as_wav, as_mp3 = [await caller.client.get(sound[name]) for name in ("url_wav", "url_mp3")]

        with wave.open(io.BytesIO(as_wav.content)) as opened:
            assert opened.getnframes() / opened.getframerate() == float(sound["duration_wav"])
        assert as_mp3.content[:3] == b"ID3"
        assert as_mp3.content[10 + as_mp3.content[9] :][:2] == b"\xff\xfb"

    async def test_a_result_url_is_valid_for_its_file_until_it_expires(self, start: Start) -> None:
        caller = await start(results_for="1d")
        created = await caller.create()
        await caller.wait_until_announced()
        (image,) = (await caller.query(IMAGES, created["task_id"]))["task_result"]["images"]

        altered = await caller.client.get(image["url"].replace("image-0", "image-1"))
        prolonged = await caller.client.get(re.sub(r"x-expires=\d", "x-expires=9", image["url"]))
        bare = await caller.client.get(urlsplit(image["url"]).path)
        good = await caller.client.get(image["url"])
        caller.clock.advance(timedelta(days=1))
        late = await caller.client.get(image["url"])

        assert [answer.status_code for answer in (altered, prolonged, bare, good, late)] == [403, 403, 403, 200, 403]
