"""The configuration as frozen values: one class per section of config.toml, attribute names as the keys there.

A description here is what ``config schema`` tells of the key; config.toml says the same at more length.
"""

from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from receiver.domain.model import Secret
from receiver.settings import secrets, values
from receiver.settings.addresses import (
    Address,
    read_address,
    read_kling_url,
    read_network,
    read_optional_url,
    read_proxies,
)
from receiver.settings.fields import (
    OneOrMany,
    ParsedField,
    ReferenceField,
    Section,
    SigningSecret,
    choice_field,
    duration_field,
    int_field,
    optional_duration_field,
    read_folder,
    size_field,
)
from receiver.settings.paths import probe
from receiver.settings.routes import RouteSettings
from receiver.settings.storage import StorageSettings
from receiver.settings.values import InvalidValue, Size

SQLITE = "sqlite:"


class Dialect(StrEnum):
    """How requests to Kling are spelt."""

    OFFICIAL = "official"
    GATEWAY = "gateway"


class Verify(StrEnum):
    """Which unsigned pushes Kling's API must confirm before anything follows from them."""

    NEVER = "never"
    TERMINAL = "terminal"
    ALWAYS = "always"


def _read_store(raw: object, info: ValidationInfo) -> str:
    text = values.read_text(raw)
    if text.startswith(("postgresql:", "postgres:")):
        raise InvalidValue('this version stores on SQLite only; write "sqlite:var/receiver.db"')
    if text.startswith("sqlite:////"):
        text = SQLITE + text.removeprefix("sqlite:///")
    name = text.removeprefix(SQLITE)
    if not text.startswith(SQLITE) or not name or name.startswith(("//", ":")) or "?" in name:
        raise InvalidValue(
            'must be "sqlite:" and the path of a file: "sqlite:var/receiver.db", "sqlite:/var/lib/receiver.db"'
        )
    path = secrets.resolve_path(name, secrets.load_context(info))
    place = probe(path)
    if name.endswith("/") or place.is_folder:
        raise InvalidValue(f"{path} is a folder; name the file in it")
    if place.problem:
        raise InvalidValue(place.problem)
    return f"{SQLITE}{path}"


def _read_routes(raw: object) -> object:
    if isinstance(raw, dict):
        raise InvalidValue("is a list of tables; begin each route with [[routes]], in double brackets")
    if not isinstance(raw, list | tuple):
        raise InvalidValue("must be a list of tables; begin each route with [[routes]]")
    return list(raw)


class PublicSettings(Section):
    """What Kling reaches."""

    listen: Annotated[Address, ParsedField(read_address)] = Field(
        default=Address("127.0.0.1", 8700), description="Where callbacks arrive; all that a proxy or tunnel exposes."
    )
    url: Annotated[str, ParsedField(read_optional_url)] = Field(
        default="",
        description="How Kling reaches this listener. Empty: no callbacks are asked for, tasks are polled alone.",
    )
    proxies: Annotated[tuple[Annotated[IPv4Network | IPv6Network, ParsedField(read_proxies)], ...], OneOrMany] = Field(
        default=(), description="Where your reverse proxies are; their X-Forwarded-For says who called, nobody else's."
    )


class AdminSettings(Section):
    """What you and your programs reach."""

    listen: Annotated[Address, ParsedField(read_address)] = Field(
        default=Address("127.0.0.1", 8701), description="Where the gateway and the API are."
    )
    token: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="The bearer token it asks for. Empty: made at first start, kept beside the store."
    )


class StoreSettings(Section):
    """Where everything is kept."""

    url: Annotated[str, ReferenceField(_read_store)] = Field(
        default="sqlite:var/receiver.db", description="The database: sqlite: and a path, relative to this file."
    )

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix(SQLITE))


class SlotSettings(Section):
    """How many tasks the account allows at once, by pack."""

    video: Annotated[int, int_field(0, 10_000)] = Field(
        default=0, description="Parallel video tasks; 0: no limit of ours."
    )
    image: Annotated[int, int_field(0, 10_000)] = Field(default=0, description="Parallel images; 0: no limit of ours.")


class KlingSettings(Section):
    """Kling's API, or a gateway that resells it."""

    base_url: Annotated[str, ParsedField(read_kling_url)] = Field(
        default="https://api-singapore.klingai.com", description="Where Kling is; paths begin with /v1 after it."
    )
    api_key: Annotated[Secret | None, ReferenceField(secrets.read_api_key)] = Field(
        default=None, description="The key, sent as Bearer; env:KLING_API_KEY when neither kind of key is given."
    )
    access_key: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="With secret_key instead of api_key: signs short-lived tokens."
    )
    secret_key: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="The other half of access_key."
    )
    dialect: Annotated[Dialect, choice_field(*Dialect)] = Field(
        default=Dialect.OFFICIAL, description="gateway: subject images as plain strings, and the key scence_image."
    )
    timeout: Annotated[timedelta, duration_field(most=timedelta(hours=1))] = Field(
        default=timedelta(seconds=30), description="The longest one call may take, all in all."
    )
    slots: SlotSettings = Field(
        default_factory=SlotSettings, description="Parallel tasks the account allows; 1303 teaches where it is 0."
    )
    fair_by: Annotated[str, ParsedField(values.read_text)] = Field(
        default="", description="The tag whose values share the slots fairly. Empty: the oldest goes first."
    )

    @field_validator("access_key")
    @classmethod
    def _one_kind_of_key(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        if value and info.data.get("api_key"):
            raise InvalidValue("stands beside api_key; keep one of them: api_key, or access_key with secret_key")
        return value

    @field_validator("secret_key")
    @classmethod
    def _both_halves(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        if "access_key" in info.data and bool(value) != bool(info.data["access_key"]):
            have, want = ("secret_key", "access_key") if value else ("access_key", "secret_key")
            raise InvalidValue(f"{have} is there without {want}; give both, or api_key alone")
        return value


class CallbackSettings(Section):
    """What arrives from Kling."""

    verify: Annotated[Verify, choice_field(*Verify)] = Field(
        default=Verify.TERMINAL, description="Which unsigned pushes Kling's API must confirm before they count."
    )
    signing_secrets: Annotated[tuple[SigningSecret, ...], OneOrMany] = Field(
        default=(), description="Kling's webhook secrets, newest first; a good signature needs no confirmation."
    )
    max_body: Annotated[Size, size_field(Size(1024), Size(64 << 20))] = Field(
        default=Size(1 << 20), description="The largest callback taken; a larger one is answered 413."
    )
    expire_after: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(days=30), description="How long a callback URL is good for."
    )


class PollSettings(Section):
    """Asking Kling about tasks that have gone quiet."""

    after: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(seconds=30), description="Silence after which a running task is asked about."
    )
    every: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(minutes=5), description="The ceiling of the growing interval between questions."
    )
    stuck_after: Annotated[timedelta | None, optional_duration_field()] = Field(
        default=timedelta(hours=1), description="A task without an end by then is told of, once. Empty: never."
    )
    give_up_after: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(hours=48), description="A task without an end by then is expired."
    )

    @field_validator("every", "give_up_after")
    @classmethod
    def _is_increasing(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        before = {"every": "after", "give_up_after": "every"}[info.field_name or ""]
        if before in info.data and value < info.data[before]:
            length, least = values.write_duration(value), values.write_duration(info.data[before])
            raise InvalidValue(
                f"({length}) is shorter than {before} ({least}); it wants after <= every <= give_up_after"
            )
        return value


class ArchiveSettings(Section):
    """Bringing results home."""

    dir: Annotated[Path | None, ReferenceField(read_folder)] = Field(
        default=None, description="Where results are downloaded to before anybody is told. Empty: they are not."
    )
    storage: StorageSettings = Field(
        default_factory=StorageSettings, description="The S3-compatible store that results are copied to."
    )

    @property
    def is_on(self) -> bool:
        """Whether results are brought home at all: into the folder, into the store, or both."""
        return self.dir is not None or bool(self.storage.url)


class GatewaySettings(Section):
    """The drop-in for Kling's API."""

    secret: Annotated[Secret | None, ReferenceField(secrets.read_optional_signing_secret)] = Field(
        default=None, description="Signs what goes to a client's own callback_url. Empty: unsigned."
    )


class NetworkSettings(Section):
    """Where strangers' URLs may lead."""

    allow: Annotated[tuple[Annotated[IPv4Network | IPv6Network, ParsedField(read_network)], ...], OneOrMany] = Field(
        default=(), description="Private networks that a client's callback_url or a result's URL may lead to."
    )


class RetentionSettings(Section):
    """How long things are kept."""

    events: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(days=90), description="Events, their deliveries and attempts, and ended tasks."
    )
    bodies: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(days=30), description="Raw bodies, as they came and as they were asked for."
    )


class Settings(Section):
    """The whole configuration."""

    public: PublicSettings = Field(default_factory=PublicSettings, description="What Kling reaches.")
    admin: AdminSettings = Field(default_factory=AdminSettings, description="What you and your programs reach.")
    store: StoreSettings = Field(default_factory=StoreSettings, description="Where everything is kept.")
    kling: KlingSettings = Field(
        default_factory=KlingSettings, description="Kling's API, or a gateway that resells it."
    )
    callbacks: CallbackSettings = Field(default_factory=CallbackSettings, description="What arrives from Kling.")
    poll: PollSettings = Field(default_factory=PollSettings, description="Asking about tasks that have gone quiet.")
    archive: ArchiveSettings = Field(default_factory=ArchiveSettings, description="Bringing results home.")
    gateway: GatewaySettings = Field(default_factory=GatewaySettings, description="The drop-in for Kling's API.")
    network: NetworkSettings = Field(default_factory=NetworkSettings, description="Where strangers' URLs may lead.")
    retention: RetentionSettings = Field(default_factory=RetentionSettings, description="How long things are kept.")
    routes: Annotated[tuple[RouteSettings, ...], BeforeValidator(_read_routes)] = Field(
        default=(), description="Where events go: as many [[routes]] as wanted."
    )

    @property
    def data_dir(self) -> Path:
        """The folder of the store and of what lies beside it."""
        return self.store.path.parent

    @field_validator("admin")
    @classmethod
    def _has_own_address(cls, value: AdminSettings, info: ValidationInfo) -> AdminSettings:
        public = info.data.get("public")
        if public and value.listen.clashes_with(public.listen):
            raise InvalidValue("is the public listener's address too; each needs a port of its own", at=("listen",))
        return value
