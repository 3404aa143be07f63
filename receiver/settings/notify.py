"""A notify destination of a route: chat, mail or push services through Apprise."""

import re
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from receiver.domain.secret import Secret
from receiver.domain.template import Expression, parse_template
from receiver.settings import secrets, values
from receiver.settings.conditions import read_condition
from receiver.settings.fields import OneOrMany, ParsedField, ReferenceField, Section, duration_field
from receiver.settings.values import InvalidValue

_MAX_URLS = 16
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(?=.)", re.IGNORECASE)
_SEPARATORS = re.compile(r"[/?&=@:#,+ ]+")
_HOST = re.compile(r"(localhost|\[[0-9a-f:.]+\]|[\w-]+(\.[\w-]+)+)(:\d+)?", re.IGNORECASE)
_STAND_IN = "json://not-available-here"


def _read_url(raw: object, info: ValidationInfo) -> Secret:
    """Parse a URL of Apprise. All of it is a secret: most services have a token in it. No error repeats it."""
    if isinstance(raw, Secret):
        return raw
    text = secrets.resolve(values.read_text(raw), secrets.load_context(info), stand_in=_STAND_IN)
    if not _SCHEME.match(text) or not text.isprintable():
        raise InvalidValue('must be a URL of Apprise, such as "tgram://TOKEN/CHAT" or "mailto://USER:PASSWORD@HOST"')
    return Secret(text)


def _read_template(raw: object) -> str | None:
    """Parse a text with JMESPath expressions in braces, and check each of them."""
    if raw is None or raw == "":
        return None
    text = values.read_text(raw)
    try:
        parts = parse_template(text)
    except ValueError as exc:
        raise InvalidValue(str(exc)) from None
    for part in parts:
        if isinstance(part, Expression):
            if not part.text:
                raise InvalidValue("has empty braces; write an expression such as {message} in them")
            try:
                read_condition(part.text)
            except InvalidValue as exc:
                raise InvalidValue(f"has {values.quoted('{' + part.text + '}')}, which {exc}") from None
    return text


def _check_urls(urls: tuple[Secret, ...]) -> tuple[Secret, ...]:
    if not urls:
        raise InvalidValue("must not be empty; name at least one URL of Apprise")
    if len(urls) > _MAX_URLS:
        raise InvalidValue(f"has {len(urls)} URLs; a route may have {_MAX_URLS}, so make two routes")
    return urls


class NotifySettings(Section):
    """A notify destination: people receive a text about the event."""

    urls: Annotated[
        tuple[Annotated[Secret, ReferenceField(_read_url)], ...], OneOrMany, AfterValidator(_check_urls)
    ] = Field(description="Where to send: URLs of Apprise, such as tgram://, mailto:// or slack://; may be references.")
    title: Annotated[str | None, ParsedField(_read_template)] = Field(
        default=None, description="The title, with JMESPath over the event in braces. Empty: a default for each event."
    )
    body: Annotated[str | None, ParsedField(_read_template)] = Field(
        default=None, description="The text, with JMESPath over the event in braces. Empty: a default for each event."
    )
    timeout: Annotated[timedelta, duration_field(least=timedelta(seconds=1), most=timedelta(minutes=5))] = Field(
        default=timedelta(seconds=30), description="Total time limit of one attempt."
    )

    @field_validator("urls")
    @classmethod
    def _extra_is_installed(cls, value: tuple[Secret, ...]) -> tuple[Secret, ...]:
        if find_spec("apprise") is None:
            raise InvalidValue(
                "needs the extra `notify`, which is not installed; in a checkout: make notify, "
                "else: pip install 'kling-receiver[notify]'"
            )
        return value

    @property
    def services(self) -> tuple[str, ...]:
        """The schemes of the URLs, which are no secrets."""
        return tuple(dict.fromkeys(service_of(url) for url in self.urls))


def service_of(url: Secret) -> str:
    """Return the scheme of a URL, such as ``tgram``."""
    found = _SCHEME.match(url.reveal())
    return found[1].lower() if found else ""


def secret_parts(url: Secret) -> Iterator[Secret]:
    """Yield every part of a URL of Apprise that may be a token: all between separators, except host names."""
    rest = url.reveal().partition("://")[2]
    path = rest.partition("?")[0]
    for part in {rest, path, path.partition("/")[0], *_SEPARATORS.split(rest)}:
        if part and not _HOST.fullmatch(part):
            yield Secret(part)
            yield Secret(unquote(part))
