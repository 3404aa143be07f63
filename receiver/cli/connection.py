"""The way to the running service: its admin listener, spoken to over HTTP. No command touches the store itself."""

import getpass
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import httpx2 as httpx

from receiver.errors import Conflict, InvalidRequest, NotFound, ReceiverError, ServiceUnreachable
from receiver.model import Json
from receiver.settings import Loaded, Settings, load

_CONNECT_SECONDS = 3.0
_ANSWER_SECONDS = 60.0  # a submit may first wait for Kling
_SILENCE_SECONDS = 40.0  # the stream has a heartbeat every 15 s
_KEPT_AS = "admin-token"
_ACTOR = "kling-receiver-actor"  # whose word it is, for the record of what people did
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what others bind; we call loopback

_KNOWN: Mapping[str, type[ReceiverError]] = {e.code: e for e in (InvalidRequest, NotFound, Conflict)}


class RequestFailed(ReceiverError):
    """The service answered, and not with what was asked for."""

    code: ClassVar[str] = "request_failed"


class Connection:
    """Requests to the admin listener, and the stream of events."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._token = token
        self._client = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}", _ACTOR: _who()},
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def another(self) -> "Connection":
        """Make a second connection to the same service, for another thread to use and to close."""
        return Connection(self.url, self._token)

    def get(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> Json:
        """Ask for an object."""
        return self._answer("GET", path, query=query)

    def post(self, path: str, body: Json) -> Json:
        """Hand an object in, and get the answer's object."""
        return self._answer("POST", path, body=body)

    @contextmanager
    def stream(self, *, after: str | None = None, task_id: str | None = None) -> Iterator[Iterator[tuple[str, Json]]]:
        """Follow events as they happen, all or one task's, each as its id and its object; entered once it has begun."""
        try:
            with self._client.sse(
                "/api/stream",
                params={name: value for name, value in (("after", after), ("task", task_id)) if value},
                timeout=httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
            ) as source:
                if source.response.status_code != httpx.codes.OK:
                    source.response.read()
                    raise _refusal(source.response)
                yield ((event.id, _object(event.data)) for event in source if event.data)
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise self._unreachable(exc) from exc

    def _answer(
        self, method: str, path: str, *, query: Mapping[str, str | list[str]] | None = None, body: Json | None = None
    ) -> Json:
        try:
            response = self._client.request(method, path, params=query, json=body)
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise self._unreachable(exc) from exc
        if not response.is_success:
            raise _refusal(response)
        return _object(response.text)

    def _unreachable(self, exc: Exception) -> ReceiverError:
        if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
            return ServiceUnreachable(
                f"No service answers at {self.url}.",
                remedy="Start it with `kling-receiver serve`, or name the configuration it runs on with --config.",
            )
        return ServiceUnreachable(
            f"The service at {self.url} did not answer in full ({type(exc).__name__}).",
            remedy="Look at its log, and at `kling-receiver tasks list` before you submit again.",
        )


def _who() -> str:
    """Name the user of this machine who gives the command."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container that runs as a number nobody has a name for
        name = f"uid {os.getuid()}"
    return name.encode("ascii", "backslashreplace").decode()


def connect(config: Path | None) -> Connection:
    """Find the service that runs on a configuration, and the token it wants."""
    return reach(load(config))


def reach(loaded: Loaded) -> Connection:
    """Find the service that runs on a configuration that is already read."""
    settings = loaded.settings
    return Connection(admin_url(settings), find_token(settings))


def admin_url(settings: Settings) -> str:
    """Tell where on this machine the admin listener answers."""
    host = _ANY_ADDRESS.get(settings.admin.listen.host, settings.admin.listen.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.admin.listen.port}"


def find_token(settings: Settings) -> str:
    """Find the admin token: from the configuration, else where the service put it at its first start."""
    if settings.admin.token:
        return settings.admin.token.reveal()
    path = settings.data_dir / _KEPT_AS
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError as exc:
        raise ServiceUnreachable(
            f"No service has run here yet: {path} does not exist.",
            remedy="Start it with `kling-receiver serve`, or name the configuration it runs on with --config.",
        ) from exc
    except OSError as exc:
        raise ServiceUnreachable(
            f"The admin token in {path} cannot be read ({exc.strerror}).",
            remedy="Run the command as the service's own user, or set KLING_RECEIVER__ADMIN__TOKEN.",
        ) from exc


def _refusal(response: httpx.Response) -> ReceiverError:
    problem = _problem(response)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return RequestFailed(
            "The service does not take our admin token.",
            remedy="Name the configuration it runs on with --config, so that the right token is found.",
        )
    sentence = str(problem.get("detail") or problem.get("title") or f"The service answered {response.status_code}.")
    return _KNOWN.get(str(problem.get("code")), RequestFailed)(sentence)


def _problem(response: httpx.Response) -> Json:
    try:
        return _object(response.text)
    except ReceiverError:
        return {}


def _object(text: str) -> Json:
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestFailed(
            "What answers at the admin address does not speak our API.",
            remedy="Check [admin] listen: another program may have taken the port.",
        )
    return value
