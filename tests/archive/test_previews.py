"""Thumbnails: small, made once, and harmless whatever the picture is."""

import asyncio
import io
import os
import resource
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.archive_system import ArchiveSystem, a_cdn
from harness.archived_results import running_previews, write_result
from harness.http_peers import response
from harness.retention_system import RetentionSystem, a_retention_system
from harness.waiting import wait_until
from PIL import Image

from receiver.archive import previews as previews_module
from receiver.archive.previews import Previews
from receiver.archive.reader import ArchiveReader
from receiver.service.retention import Retention
from receiver.settings import RetentionSettings
from receiver.store.interfaces import StoredResult


@pytest.fixture
async def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Previews]:
    monkeypatch.setattr(previews_module, "_WAIT_SECONDS", 60)  # on a busy machine, a worker takes long to start
    async with running_previews(Previews(tmp_path / ".previews", ArchiveReader())) as previews:
        yield previews


def a_picture(format_: str = "PNG", *, size: tuple[int, int] = (800, 600), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, format_, **options)
    return file.getvalue()


def a_png(width: int, height: int, *chunks: bytes) -> bytes:
    """Return a PNG that claims this size, with the given chunks after its header."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


Archive = Callable[..., StoredResult]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    def archive(content: bytes, content_type: str = "image/png") -> StoredResult:
        return write_result(tmp_path / "results", "tsk_1", "evt_1", content, content_type=content_type)

    return archive


@pytest.mark.parametrize(
    ("format_", "mode"),
    [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("GIF", "L")],
)
async def test_a_picture_gets_a_small_thumbnail(previews: Previews, archive: Archive, format_: str, mode: str) -> None:
    result = archive(a_picture(format_, mode=mode), f"image/{format_.lower()}")

    thumbnail = await previews.get(result)

    assert thumbnail is not None
    with Image.open(io.BytesIO(thumbnail)) as shown:
        assert (shown.format, shown.size) == ("WEBP", (320, 240))
    assert len(thumbnail) < 20_000


async def test_a_thumbnail_is_upright_and_has_no_metadata(previews: Previews, archive: Archive) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "a secret description"
    result = archive(a_picture("JPEG", exif=exif, icc_profile=b"a secret profile"), "image/jpeg")

    thumbnail = await previews.get(result)

    assert thumbnail is not None
    assert b"secret" not in thumbnail
    with Image.open(io.BytesIO(thumbnail)) as shown:
        assert shown.size == (240, 320)


HOSTILE = {
    "a web page": b"<!doctype html><script>alert(1)</script>",
    "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "a truncated picture": a_picture()[:2000],
    "a picture with a broken end": a_picture()[:-40] + b"x" * 40,
    "nothing but a signature": b"\x89PNG\r\n\x1a\n",
    "60,000 pixels square": a_png(60_000, 60_000, png_chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "just above the limit of pixels": a_png(8000, 6260, png_chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "a bomb of text": a_png(9, 9, *[png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000)))] * 9),
    "PostScript, another format of Pillow's": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n",
    "an empty file": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_picture_gets_no_thumbnail(
    previews: Previews, archive: Archive, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    result = archive(HOSTILE[name])

    used = worker_seconds()
    assert await previews.get(result) is None
    assert worker_seconds() - used < 9  # the worker's limit of CPU time was not needed

    monkeypatch.setattr(previews_module, "_WORKER", "/nonexistent: a second try would fail otherwise")
    assert await previews.get(result) is None
    assert [path.read_bytes() for path in kept(previews)] == [b"none"]


def worker_seconds() -> float:
    """Return the CPU time of all workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_the_largest_permitted_picture_gets_a_thumbnail(previews: Previews, archive: Archive) -> None:
    previews.request(archive(a_picture(size=(8000, 6000))))

    await wait_until(lambda: bool(kept(previews)), seconds=60)
    assert [path.read_bytes()[:4] for path in kept(previews)] == [b"RIFF"]


@pytest.mark.parametrize("type_", ["video/mp4", "audio/mpeg", "image/svg+xml", "application/octet-stream"])
async def test_other_files_get_no_thumbnail_and_start_no_process(
    previews: Previews, archive: Archive, type_: str
) -> None:
    result = archive(a_picture(), type_)
    previews.request(result)

    assert await previews.get(result) is None
    assert kept(previews) == []


WORKER = Path(previews_module._WORKER).read_text()
WORKERS = {
    "it crashes": "import os; os.abort()",
    "it never ends": "while True: pass",
    "it sleeps": "import time; time.sleep(99)",
    "it floods": "while True: print('RIFF' * 99999)",
    "it sends something else": "print('<script>')",
    "it fails after a thumbnail": "print('RIFF'); raise SystemExit(1)",
    "it needs too much memory": "bytearray(4 * 1024**3)",
    "it opens too many files": "x = [open('/dev/null') for _ in range(99)]",
    "it writes a file": "open('TMP/written', 'w').write('x' * 99999)",
}

ENDLESS = ("it never ends", "it sleeps")


@pytest.mark.parametrize("name", WORKERS)
async def test_a_compromised_thumbnail_process_is_ended_and_changes_nothing(
    previews: Previews, archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    # The decoder is replaced after the worker has limited itself, as a decoder that was taken over would be.
    attack = WORKERS[name].replace("TMP", str(tmp_path))
    fake = tmp_path / "worker.py"
    fake.write_text(WORKER.replace("        _make_thumbnail()\n", f"        exec({attack!r})\n", 1))
    monkeypatch.setattr(previews_module, "_WORKER", str(fake))
    monkeypatch.setattr(previews_module, "_PROCESS_SECONDS", 1 if name in ENDLESS else 60)

    assert await previews.get(archive(a_picture())) is None

    assert [path.read_bytes() for path in kept(previews)] == [b"none"]
    assert file_size(tmp_path / "written") == 0


async def test_the_worker_gets_no_secrets(
    previews: Previews, archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KLING_API_KEY", "the-secret-key")
    fake = tmp_path / "worker.py"
    fake.write_text("import os; print('RIFF', dict(os.environ), sorted(os.listdir('/proc/self/fd')))")
    monkeypatch.setattr(previews_module, "_WORKER", str(fake))

    thumbnail = await previews.get(archive(a_picture()))

    assert thumbnail is not None
    assert b"secret" not in thumbnail
    assert thumbnail.endswith(b"['0', '1', '2', '3']\n")  # the fourth lists the folder


async def test_a_thumbnail_is_made_once_and_again_if_it_is_missing(
    previews: Previews, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = archive(a_picture())
    both = await asyncio.gather(previews.get(result), previews.get(result))
    [file] = kept(previews)

    file.unlink()
    again = await previews.get(result)
    file.write_bytes(b"")  # as a power cut may leave it
    repaired = await previews.get(result)
    monkeypatch.setattr(previews_module, "_WORKER", "/nonexistent")
    last = await previews.get(result)

    assert both[0] is not None
    assert {*both, again, repaired, last} == {both[0]}


async def test_a_missing_picture_is_tried_again(previews: Previews, archive: Archive) -> None:
    content = a_picture()
    result = archive(content)
    file_of(result).unlink()

    assert await previews.get(result) is None
    file_of(result).write_bytes(content)

    assert await previews.get(result) is not None


async def test_thumbnails_of_archived_pictures_do_not_delay_the_event(
    system: ArchiveSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    run_worker = previews_module._run_worker

    async def slow_worker(picture: Any) -> bytes | None:
        await gate.wait()
        return await run_worker(picture)

    monkeypatch.setattr(previews_module, "_run_worker", slow_worker)
    picture = response(200, a_picture(), content_type="image/png")
    async with a_cdn(a=picture) as cdn, running_previews(Previews(tmp_path / "p", ArchiveReader())) as previews:
        system.previews = previews
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()

        await system.wait_for_assets(event)
        assert await system.due_by_route(event) == {"publish": True}
        assert kept(previews) == []

        gate.set()
        await wait_until(lambda: len(kept(previews)) == 1)


async def test_a_thumbnail_that_finishes_after_its_task_was_deleted_is_not_kept(
    previews: Previews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, may_end, run_worker = asyncio.Event(), asyncio.Event(), previews_module._run_worker

    async def slow_worker(picture: Any) -> bytes | None:
        has_begun.set()
        await may_end.wait()
        return await run_worker(picture)

    monkeypatch.setattr(previews_module, "_run_worker", slow_worker)
    deleted, other = (
        write_result(tmp_path / "results", task_id, "evt_1", a_picture(), content_type="image/png")
        for task_id in ("tsk_1", "tsk_2")
    )
    previews.request(deleted)
    await has_begun.wait()
    await previews.remove("tsk_1")
    may_end.set()
    previews.request(other)
    await wait_until(lambda: bool(kept(previews)), seconds=60)

    assert [path.parent.name for path in kept(previews)] == ["tsk_2"]


async def test_retention_removes_old_thumbnails(tmp_path: Path) -> None:
    async with a_retention_system(tmp_path / "receiver.db") as system:
        previews = Previews(tmp_path / ".previews", ArchiveReader())
        ages = {"tsk_old": 91, "tsk_new": 89}
        for name, days in ages.items():
            folder = tmp_path / ".previews" / name
            folder.mkdir(parents=True)
            (folder / "evt_1-0.webp").write_bytes(b"RIFF")
            made_at = (system.clock.now() - timedelta(days=days)).timestamp()
            os.utime(folder, (made_at, made_at))

        deleted = await sweep(system, previews)
        again = await sweep(system, previews)

    assert (deleted, again) == (1, 0)
    assert [path.parent.name for path in kept(previews)] == ["tsk_new"]


async def sweep(system: RetentionSystem, previews: Previews) -> int:
    retention = Retention(system.store.retention, RetentionSettings(), clock=system.clock, previews=previews)
    return await retention.sweep_previews()


def file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def file_of(result: StoredResult) -> Path:
    return Path(str(result.asset.path))


def kept(previews: Previews) -> list[Path]:
    return sorted(previews._folder.rglob("*.webp"))
