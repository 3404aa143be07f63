"""Clients of other people, unchanged from their registries, work against the gateway and a simulated Kling.

They are installed when they run, so `make clients` runs these tests and `make test` skips them.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.running_service import Receiver, a_config, a_kling, a_receiver, wait_for_state
from harness.tls_front import CERTIFICATE, a_tls_front
from harness.waiting import wait_until
from harness.waitpoint import waitpoints

from receiver.kling.simulator import Simulator

FOLDER = Path(__file__).parents[2] / "var" / "clients"
NPM_CLIENT = "kling-api@1.0.0"
PYPI_CLIENT = ("klingai-api==0.1.0", "requests-toolbelt==1.0.0", "requests", "urllib3", "certifi", "idna",
               "charset-normalizer", "pyjwt")  # fmt: skip
LOOPBACK = '[network]\nallow = ["127.0.0.0/8"]\n[gateway]\ncallbacks = "final"\n'

pytestmark = [
    pytest.mark.skipif("DROP_IN" not in os.environ, reason="it installs packages: make clients"),
    pytest.mark.timeout(600),
]

NPM_PROGRAM = """
import { KlingAPI } from "kling-api";

const { BASE_URL, CALLBACK, IMAGE } = process.env;
const kling = new KlingAPI({ baseUrl: BASE_URL });
const poll = { interval: 100, timeout: 20000, showSpinner: false };
const ended = async (created, query, kind) => {
  const answer = await kling[`waitFor${kind}Result`](created.data.task_id, kling[query].bind(kling), poll);
  return { id: created.data.task_id, created, answer };
};
const refused = await kling.textToVideo({ prompt: "a cat" }).catch((error) => error);
const ends = {
  lost: await ended(await kling.generateImage({ prompt: "its answer is lost" }), "queryImageGenTask", "Image"),
  multi: await ended(
    await kling.multiImageToImage({
      prompt: "two friends", subject_image_list: [{ subject_image: IMAGE }], n: 2, callback_url: CALLBACK,
      external_task_id: "order-17",
    }), "queryMultiImageToImageTask", "Image"),
  image: await ended(await kling.generateImage({ prompt: "a cat" }), "queryImageGenTask", "Image"),
  expand: await ended(await kling.expandImage({
      image: IMAGE, up_expansion_ratio: 0.1, down_expansion_ratio: 0.1,
      left_expansion_ratio: 0.1, right_expansion_ratio: 0.1,
    }), "queryImageExpandTask", "Image"),
  omni: await ended(await kling.omniImage({ prompt: "a dog" }), "queryOmniImageTask", "Image"),
  video: await ended(await kling.textToVideo({ prompt: "a cat" }), "queryTextToVideoTask", "Video"),
  animated: await ended(await kling.imageToVideo({ image: IMAGE, prompt: "it runs" }),
    "queryImageToVideoTask", "Video"),
  many: await ended(await kling.multiImageToVideo({ image_list: [{ image: IMAGE }], prompt: "they dance" }),
    "queryMultiImageToVideoTask", "Video"),
  omniVideo: await ended(await kling.omniVideo({ prompt: "a bird" }), "queryOmniVideoTask", "Video"),
  avatar: await ended(await kling.createAvatar({ image: IMAGE, audio_id: "audio-1" }), "queryAvatarTask", "Video"),
};
ends.extended = await ended(
  await kling.extendVideo({ video_id: ends.video.answer.data.task_result.videos[0].id }),
  "queryExtendVideoTask", "Video");
const unknown = await kling.queryImageGenTask("no-such-task").catch((error) => error);
const stranger = new KlingAPI({ baseUrl: BASE_URL, accessKey: "a", secretKey: "b".repeat(32) });
const denied = await stranger.textToVideo({ prompt: "a cat" }).catch((error) => error);
const failure = (error) => ({ code: error.code, status: error.httpStatus, message: error.message });
console.log(JSON.stringify({
  ends, healthy: await kling.healthCheck(),
  refused: failure(refused), unknown: failure(unknown), denied: failure(denied),
}));
"""

PYPI_PROGRAM = """
import json, os, time
from api import KlingAiAPI

KlingAiAPI.base = os.environ["BASE_URL"]
with KlingAiAPI() as kling:
    image = os.environ["IMAGE"]
    made = {"text2video": kling.text2video("a cat"), "image2video": kling.image2video(image, prompt="it runs")}
    ends = {}
    for name, answer in made.items():
        for _ in range(200):
            found = getattr(kling, f"get_{name}")(answer["data"]["task_id"])
            if found["data"]["task_status"] in ("succeed", "failed"):
                break
            time.sleep(0.1)
        ends[name] = {"id": answer["data"]["task_id"], "created": answer, "answer": found}
    print(json.dumps({"ends": ends, "listed": len(kling.list_text2video()["data"])}))
"""


@asynccontextmanager
async def a_gateway(folder: Path, **faults: str) -> AsyncIterator[tuple[Receiver, Simulator]]:
    async with a_kling(**faults) as kling, a_receiver(folder, a_config(kling.url, more=LOOPBACK)) as receiver:
        yield receiver, kling


async def run(command: Sequence[str], receiver: Receiver, folder: Path, **environ: str) -> Mapping[str, Any]:
    """Run a client's program with the admin token as its secret key. Return what it prints."""
    keys = {"KLING_ACCESS_KEY": "any", "KLING_SECRET_KEY": receiver.token}
    keys |= {"ACCESS_TOKEN": "any", "SECRET_TOKEN": receiver.token}
    trust = {"NODE_EXTRA_CA_CERTS": str(CERTIFICATE), "REQUESTS_CA_BUNDLE": str(CERTIFICATE)}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **keys, **trust, **environ}
    ended = await asyncio.to_thread(
        subprocess.run, command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    printed: dict[str, Any] = json.loads(ended.stdout)
    return printed


def install(command: Sequence[str], place: Path) -> None:
    """Run an installer once. Skip the test if the registry cannot be reached."""
    if place.exists():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=300)
    if ended.returncode:
        pytest.skip(f"{' '.join(command)} failed: {ended.stderr[-300:]}")


async def check_ends(receiver: Receiver, ends: Mapping[str, Any]) -> None:
    async with receiver.client() as client:
        for end in ends.values():
            assert end["created"]["code"] == end["answer"]["code"] == 0
            assert end["answer"]["data"]["task_status"] == "succeed"
            assert (await wait_for_state(client, end["id"], "succeed"))["origin"] == "gateway"


async def test_the_npm_package_kling_api_works_through_the_gateway(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    modules = FOLDER / "npm" / "node_modules"
    install(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(FOLDER / "npm"), NPM_CLIENT],
            modules / "kling-api")  # fmt: skip
    program = FOLDER / "npm" / "program.mjs"
    program.write_text(NPM_PROGRAM)
    async with (
        a_gateway(tmp_path, refuse="1301", hang_up="next:1") as (receiver, kling),
        a_tls_front(receiver.admin) as url,
        waitpoints() as service,
    ):
        given = {"BASE_URL": f"{url}/kling", "CALLBACK": f"{service.url}/wait?s=a%2Fb"}

        printed = await run(["node", str(program)], receiver, tmp_path, IMAGE="https://example.com/a.png", **given)

        await check_ends(receiver, printed["ends"])
        await wait_until(lambda: service.requests == ["/wait?s=a%2Fb"])
        assert service.output("/wait?s=a%2Fb")["task_id"] == printed["ends"]["multi"]["id"]
        assert printed["healthy"]
        assert (printed["refused"]["status"], printed["refused"]["code"]) == (400, 1301)
        assert printed["unknown"]["status"] == 404
        assert (printed["denied"]["status"], printed["denied"]["code"]) == (401, 1000)
        assert "admin token as the secret key" in printed["denied"]["message"]
        assert receiver.log_entries("create.repeated")  # the client sent the create again whose answer was lost
        assert kling.counts["created"] == len(printed["ends"])


async def test_the_pypi_package_klingai_api_works_through_the_gateway(tmp_path: Path) -> None:
    packages = FOLDER / "pypi"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
    install([*command, "--target", str(packages), *PYPI_CLIENT], packages / "api.py")
    async with a_gateway(tmp_path) as (receiver, kling), a_tls_front(receiver.admin, prefix="/kling") as url:
        given = {"BASE_URL": url, "PYTHONPATH": str(packages)}

        printed = await run([sys.executable, "-c", PYPI_PROGRAM], receiver, tmp_path,
                         IMAGE="https://example.com/a.png", **given)  # fmt: skip

        await check_ends(receiver, printed["ends"])
        assert printed["listed"] == 1
        assert kling.counts["created"] == 2
