"""The configuration as frozen values: one class per section of config.toml, one attribute per key.

``config schema`` prints the descriptions; config.toml explains the keys in more detail.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, cast

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from receiver.domain.model import ClientCallbacks
from receiver.domain.secret import Secret
from receiver.settings import secrets, values
from receiver.settings.addresses import (
    Address,
    check_url,
    read_address,
    read_host_name,
    read_kling_url,
    read_network,
    read_optional_url,
    read_proxies,
)
from receiver.settings.dialect import Dialect
from receiver.settings.fields import (
    OneOrMany,
    ParsedField,
    ReferenceField,
    Section,
    SigningSecret,
    TableField,
    choice_field,
    duration_field,
    optional_duration_field,
    read_folder,
    size_field,
)
from receiver.settings.routes import RouteSettings
from receiver.settings.slots import SlotSettings
from receiver.settings.storage import StorageSettings
from receiver.settings.store_url import StoreUrl, read_node, read_store_url
from receiver.settings.values import InvalidValue, Share, Size

LOG_LEVELS = ("debug", "info", "warning", "error")

_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Verify(StrEnum):
    """Which unsigned pushes Kling's API must confirm before they take effect."""

    NEVER = "never"
    TERMINAL = "terminal"
    ALWAYS = "always"


def _token_name_error(name: str, _previous: Sequence[str]) -> str:
    if not _TOKEN_NAME.fullmatch(name):
        return f"{values.quoted(name)} is not a name for a token; use letters, digits, '.', '_' and '-' (64 at most)"
    return ""


def _read_heartbeat(raw: object, info: ValidationInfo) -> Secret | None:
    """Parse the URL of a heartbeat. Its path is usually a secret, so all of it is one."""
    if isinstance(raw, Secret):
        return raw
    if raw is None or raw == "":
        return None
    url = secrets.read_url_reference(raw, info)
    check_url(url)
    return Secret(url)


def _read_routes(raw: object) -> object:
    if isinstance(raw, dict):
        raise InvalidValue("must be a list of tables; start each route with [[routes]], in double brackets")
    if not isinstance(raw, list | tuple):
        raise InvalidValue("must be a list of tables; start each route with [[routes]]")
    return list(raw)


class PublicSettings(Section):
    """The public listener, which Kling calls."""

    listen: Annotated[Address, ParsedField(read_address)] = Field(
        default=Address("127.0.0.1", 8700),
        description="Address for callbacks; the only one a proxy or tunnel must expose.",
    )
    url: Annotated[str, ParsedField(read_optional_url)] = Field(
        default="",
        description="Public URL of this listener. Empty: no callbacks are requested, tasks are only polled.",
    )
    proxies: Annotated[tuple[Annotated[IPv4Network | IPv6Network, ParsedField(read_proxies)], ...], OneOrMany] = Field(
        default=(), description="Networks of your reverse proxies; X-Forwarded-For is trusted only from them."
    )


class AdminSettings(Section):
    """The admin listener, for you and your programs."""

    listen: Annotated[Address, ParsedField(read_address)] = Field(
        default=Address("127.0.0.1", 8701), description="Address of the gateway and the API."
    )
    token: Annotated[Secret | None, ReferenceField(secrets.read_admin_token)] = Field(
        default=None,
        description="The bearer token it requires. Empty: created at the first start and kept beside the store.",
    )
    read_token: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="A second token that may only read (GET and HEAD). Empty: there is none."
    )
    tokens: Annotated[Mapping[str, Secret], TableField(_token_name_error, secrets.read_secret)] = Field(
        default_factory=dict,
        description="Further tokens by name, one for each person or program; the audit log shows the name.",
    )
    hosts: Annotated[tuple[Annotated[str, ParsedField(read_host_name)], ...], OneOrMany] = Field(
        default=(),
        description="Further host names it answers to. If empty and `listen` is 0.0.0.0 or [::], it answers to any.",
    )

    @field_validator("read_token")
    @classmethod
    def _is_another_token(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        token = info.data.get("token")
        if value and token and value.reveal() == token.reveal():
            raise InvalidValue("is the same as token, which may also write; use another secret")
        return value


class StoreSettings(Section):
    """The database."""

    url: Annotated[StoreUrl, ReferenceField(read_store_url)] = Field(
        default=cast("StoreUrl", "sqlite:var/receiver.db"),
        description="sqlite: and a path, relative to this file; or postgresql://user@host/database.",
    )
    password: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="The password on PostgreSQL, by reference: env:PGPASSWORD."
    )
    node: Annotated[str, ParsedField(read_node)] = Field(
        default="", description="This node's name on PostgreSQL. Empty: the host's name."
    )

    @field_validator("password")
    @classmethod
    def _has_server(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        url = info.data.get("url")
        if value is not None and url is not None and not url.is_postgres:
            raise InvalidValue("is for PostgreSQL alone; remove it, or change url")
        return value

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self.url.path


class KlingSettings(Section):
    """Kling's API, or a gateway that resells it."""

    base_url: Annotated[str, ParsedField(read_kling_url)] = Field(
        default="https://api-singapore.klingai.com",
        description="Base URL of Kling's API; paths begin with /v1 after it.",
    )
    api_key: Annotated[Secret | None, ReferenceField(secrets.read_api_key)] = Field(
        default=None, description="The API key, sent as Bearer; env:KLING_API_KEY if no key of either kind is given."
    )
    access_key: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="With secret_key, instead of api_key: signs short-lived tokens."
    )
    secret_key: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="The secret that belongs to access_key."
    )
    dialect: Annotated[Dialect, choice_field(*Dialect)] = Field(
        default=Dialect.OFFICIAL, description="gateway: subject images are plain strings, and the key is scence_image."
    )
    timeout: Annotated[timedelta, duration_field(most=timedelta(hours=1))] = Field(
        default=timedelta(seconds=30), description="Total time limit of one call."
    )
    slots: SlotSettings = Field(
        default_factory=SlotSettings, description="Parallel tasks the account allows; if 0, error 1303 shows the limit."
    )
    fair_by: Annotated[str, ParsedField(values.read_text)] = Field(
        default="", description="Tasks are grouped by this tag, and groups share the slots fairly. Empty: oldest first."
    )

    @field_validator("access_key")
    @classmethod
    def _one_kind_of_key(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        if value and info.data.get("api_key"):
            raise InvalidValue("is given together with api_key; keep either api_key, or access_key with secret_key")
        return value

    @field_validator("secret_key")
    @classmethod
    def _both_halves(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        if "access_key" in info.data and bool(value) != bool(info.data["access_key"]):
            have, want = ("secret_key", "access_key") if value else ("access_key", "secret_key")
            raise InvalidValue(f"{have} is given without {want}; give both, or only api_key")
        return value


class CallbackSettings(Section):
    """Callbacks from Kling."""

    verify: Annotated[Verify, choice_field(*Verify)] = Field(
        default=Verify.TERMINAL, description="Which unsigned pushes Kling's API must confirm before they take effect."
    )
    signing_secrets: Annotated[tuple[SigningSecret, ...], OneOrMany] = Field(
        default=(), description="Kling's webhook secrets, newest first; a push with a valid signature is not confirmed."
    )
    max_body: Annotated[Size, size_field(Size(1024), Size(64 << 20))] = Field(
        default=Size(1 << 20), description="Maximum size of a callback; a larger one is answered with 413."
    )
    expire_after: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(days=30), description="How long a callback URL stays valid."
    )


class PollSettings(Section):
    """Polling of tasks without recent pushes."""

    after: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(seconds=30),
        description="Time without a push after which a running task is polled, if callbacks arrive.",
    )
    every: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(minutes=5), description="The longest time between two polls of a task."
    )
    stuck_after: Annotated[timedelta | None, optional_duration_field()] = Field(
        default=timedelta(hours=1),
        description="Age at which a running task raises alert.task_stuck, once. Empty: never.",
    )
    give_up_after: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(hours=48), description="Age at which a running task becomes expired."
    )

    @field_validator("every", "give_up_after")
    @classmethod
    def _is_increasing(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        before = {"every": "after", "give_up_after": "every"}[info.field_name or ""]
        if before in info.data and value < info.data[before]:
            length, least = values.write_duration(value), values.write_duration(info.data[before])
            raise InvalidValue(
                f"({length}) is shorter than {before} ({least}); required: after <= every <= give_up_after"
            )
        return value


class ArchiveSettings(Section):
    """The archive of results."""

    dir: Annotated[Path | None, ReferenceField(read_folder)] = Field(
        default=None, description="Folder for results, downloaded before the event is sent. Empty: no download."
    )
    storage: StorageSettings = Field(
        default_factory=StorageSettings, description="The S3-compatible store that results are copied to."
    )
    shared: bool = Field(default=False, description="Whether all nodes on one database have the same folder `dir`.")

    @property
    def is_on(self) -> bool:
        """Whether results are archived: in the folder, in the store, or both."""
        return self.dir is not None or bool(self.storage.url)


class GatewaySettings(Section):
    """The gateway, a drop-in for Kling's API."""

    secret: Annotated[Secret | None, ReferenceField(secrets.read_optional_signing_secret)] = Field(
        default=None, description="Signs events sent to a client's own callback_url. Empty: unsigned."
    )
    wait: Annotated[timedelta, duration_field(least=timedelta(), most=timedelta(minutes=10))] = Field(
        default=timedelta(), description="How long a create waits for a free slot before it is answered 1303; 0s: not."
    )
    callbacks: Annotated[ClientCallbacks, choice_field(ClientCallbacks.ALL, ClientCallbacks.FINAL)] = Field(
        default=ClientCallbacks.ALL,
        description="What a client's own callback_url receives: all statuses, or final: only the end, once.",
    )


class CostSettings(Section):
    """What tasks cost, compared with Kling's own ledgers."""

    reconcile: Annotated[bool, ParsedField(values.read_bool, {"type": "boolean"})] = Field(
        default=False, description="Compare Kling's ledgers with the stored costs once a day; alert.bill_differs."
    )
    low: Annotated[Share | None, ParsedField(values.read_share, {"type": "string", "examples": ["10%", ""]})] = Field(
        default=None, description="Rest of a pack, such as 10%, at which alert.pack_low is raised. Empty: never."
    )


class NetworkSettings(Section):
    """Which private networks clients' URLs may lead to."""

    allow: Annotated[tuple[Annotated[IPv4Network | IPv6Network, ParsedField(read_network)], ...], OneOrMany] = Field(
        default=(), description="Private networks that a client's callback_url or a result's URL may lead to."
    )


class AlertSettings(Section):
    """The daily report, and the heartbeat."""

    report_at: Annotated[str, ParsedField(values.read_time_of_day)] = Field(
        default="08:00", description="Local time of the daily report, report.daily. Empty: no report."
    )
    heartbeat: Annotated[Secret | None, ReferenceField(_read_heartbeat)] = Field(
        default=None,
        description="URL that is requested each minute while all is well; may be a reference. Empty: none.",
    )


class RetentionSettings(Section):
    """How long data is kept."""

    events: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(days=90), description="Events with their deliveries and attempts, and finished tasks."
    )
    bodies: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(days=30), description="Raw bodies of pushes and of creates."
    )


class LogSettings(Section):
    """The log."""

    level: Annotated[str, choice_field(*LOG_LEVELS)] = Field(
        default="info", description="Minimum level to log. --log-level and KLING_RECEIVER_LOG override it."
    )


class Settings(Section):
    """The whole configuration."""

    public: PublicSettings = Field(
        default_factory=PublicSettings, description="The public listener, which Kling calls."
    )
    admin: AdminSettings = Field(
        default_factory=AdminSettings, description="The admin listener, for you and your programs."
    )
    store: StoreSettings = Field(default_factory=StoreSettings, description="The database.")
    kling: KlingSettings = Field(
        default_factory=KlingSettings, description="Kling's API, or a gateway that resells it."
    )
    callbacks: CallbackSettings = Field(default_factory=CallbackSettings, description="Callbacks from Kling.")
    poll: PollSettings = Field(default_factory=PollSettings, description="Polling of tasks without recent pushes.")
    archive: ArchiveSettings = Field(default_factory=ArchiveSettings, description="The archive of results.")
    gateway: GatewaySettings = Field(
        default_factory=GatewaySettings, description="The gateway, a drop-in for Kling's API."
    )
    network: NetworkSettings = Field(
        default_factory=NetworkSettings, description="Which private networks clients' URLs may lead to."
    )
    costs: CostSettings = Field(default_factory=CostSettings, description="What tasks cost, and Kling's ledgers.")
    alerts: AlertSettings = Field(default_factory=AlertSettings, description="The daily report, and the heartbeat.")
    retention: RetentionSettings = Field(default_factory=RetentionSettings, description="How long data is kept.")
    log: LogSettings = Field(default_factory=LogSettings, description="The log.")
    routes: Annotated[tuple[RouteSettings, ...], BeforeValidator(_read_routes)] = Field(
        default=(), description="Rules for events: any number of [[routes]]."
    )

    @property
    def data_dir(self) -> Path:
        """The folder of the files beside the database: the admin token, previews, and a SQLite store itself."""
        return self.store.url.data_dir

    @field_validator("admin")
    @classmethod
    def _has_own_address(cls, value: AdminSettings, info: ValidationInfo) -> AdminSettings:
        public = info.data.get("public")
        if public and value.listen.clashes_with(public.listen):
            raise InvalidValue(
                "is also the public listener's address; each listener needs its own port", at=("listen",)
            )
        return value
