"""The results of many jobs at hand: in the order of the file, as a table or as JSON, also when some failed."""

import asyncio
import csv
import json
import signal
import sys
from pathlib import Path

from harness.run_cli import clean_environment
from harness.running_service import ENDPOINT, JOB, a_config, a_kling, a_receiver
from harness.waiting import wait_until

from receiver.kling.simulator import Simulator

LABELS = ("anna", "ben", "carl")


def write_jobs(folder: Path) -> Path:
    path = folder / "jobs.jsonl"
    prompts = zip(LABELS, ("a", "[fail] b", "c"), strict=True)
    lines = [{"body": JOB | {"prompt": prompt}, "label": label} for label, prompt in prompts]
    path.write_text("\n" + "".join(json.dumps(line) + "\n" for line in lines))
    return path


def submit(path: Path) -> tuple[str, ...]:
    return ("submit", ENDPOINT, "--body", f"@{path}", "--batch", "spring", "--close-batch")


async def test_json_has_the_lines_of_the_file_with_their_results(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        ended = await receiver.run_cli_async(*submit(write_jobs(tmp_path)), "--wait", "--json")

        assert ended.returncode == 1
        tasks = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [(task["line"], task["label"], task["state"]) for task in tasks] == [
            (2, "anna", "succeed"),
            (3, "ben", "failed"),
            (4, "carl", "succeed"),
        ]
        assert [bool(task["result"]) for task in tasks] == [True, False, True]
        assert "2 succeeded, 1 did not." in ended.stderr

        listed = await receiver.run_cli_async("tasks", "list", "--batch", "spring", "--json")
        shown = await receiver.run_cli_async("batches", "show", "spring", "--json")
        for items in (json.loads(listed.stdout)["items"], json.loads(shown.stdout)["items"]):
            assert {task["label"]: task["result"] for task in items} == {
                task["label"]: task["result"] for task in tasks
            }
            assert all("assets" in task for task in items)


async def test_the_table_has_line_label_state_and_url_or_reason(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        ended = await receiver.run_cli_async(*submit(write_jobs(tmp_path)), "--wait")

        rows = [line.split("\t") for line in ended.stdout.splitlines()]
        assert [row[:3] for row in rows] == [
            ["2", "anna", "succeed"],
            ["3", "ben", "failed"],
            ["4", "carl", "succeed"],
        ]
        assert rows[0][3].startswith("http")
        assert rows[1][3] == "Image pixel is invalid"


async def test_a_repeated_file_says_how_its_jobs_ended_earlier(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        command = submit(write_jobs(tmp_path))
        first = await receiver.run_cli_async(*command, "--wait")
        again = await receiver.run_cli_async(*command, "--wait")
        new = await receiver.run_cli_async(*command[:4], "--new", "--wait")

        assert "3 of 3 jobs submitted." in first.stderr
        today = receiver.rows("SELECT date(min(created_at) / 1000000, 'unixepoch') FROM tasks")[0][0]
        assert (
            f"3 jobs: 0 new, 2 succeeded earlier ({today}), 1 failed earlier. To run the failed ones again: "
            "`tasks retry --failed --batch spring`. To pay for all of them again: --new." in again.stderr
        )
        assert "3 of 3 jobs submitted." in new.stderr
        assert kling.counts["created"] == 6


async def test_ctrl_c_names_the_tasks_that_continue_and_how_to_wait_again(tmp_path: Path) -> None:
    async with (
        a_kling(processing_for="10m") as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
    ):
        many = await _interrupt(receiver.config_path, *submit(write_jobs(tmp_path)), "--wait", after=3, kling=kling)
        one = await _interrupt(receiver.config_path, "submit", ENDPOINT, "--set", "prompt=x", "--image",
                               "https://example.com/a.png", "--wait", after=4, kling=kling)  # fmt: skip

        ids = [row[0] for row in receiver.rows("SELECT id FROM tasks ORDER BY created_at, id")]
        assert "3 of 3 jobs submitted. 3 tasks continue: " in many
        assert all(task_id in many for task_id in ids[:3])
        assert "Run the same command again to resume." in many
        assert f"Task {ids[3]} continues. Wait again with `kling-receiver tasks wait {ids[3]}`." in one


async def test_an_export_names_files_by_label_and_adds_a_manifest(tmp_path: Path) -> None:
    for archive in ("", f'[archive]\ndir = "{tmp_path / "archive"}"\n'):
        folder = tmp_path / ("archived" if archive else "downloaded")
        folder.mkdir()
        config = archive + '[network]\nallow = ["127.0.0.0/8"]\n'
        async with a_kling() as kling, a_receiver(folder, a_config(kling.url, more=config)) as receiver:
            await receiver.run_cli_async(*submit(write_jobs(folder)), "--wait")

            first = await receiver.run_cli_async("batches", "export", "spring", "--to", str(folder / "out"))
            again = await receiver.run_cli_async("batches", "export", "spring", "--to", str(folder / "out"), "--json")

            assert (first.returncode, first.stderr) == (again.returncode, again.stderr) == (0, "")
            written = sorted(path.name for path in (folder / "out").iterdir())
            assert written == ["anna.png", "carl.png", "manifest.csv", "manifest.json"]
            entries = json.loads((folder / "out" / "manifest.json").read_text())
            assert [(each["label"], each["file"], each["state"]) for each in entries] == [
                ("anna", "anna.png", "succeed"),
                ("ben", "", "failed"),
                ("carl", "carl.png", "succeed"),
            ]
            assert json.loads(again.stdout)["items"] == entries
            with (folder / "out" / "manifest.csv").open(newline="") as file:
                assert [row["file"] for row in csv.DictReader(file)] == ["anna.png", "", "carl.png"]


async def _interrupt(config: Path, *argv: str, after: int, kling: Simulator) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "receiver", *argv, "--config", str(config),
        env=clean_environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    await wait_until(lambda: kling.counts["created"] >= after)
    errors = b""
    while b"3 of 3 jobs submitted." not in errors and b"  submitted" not in errors:
        errors += await asyncio.wait_for(process.stderr.readline(), 20)
    process.send_signal(signal.SIGINT)
    _, rest = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    return (errors + rest).decode()
