"""The S3-compatible store that results are copied to: its address and its keys."""

import re
from importlib.util import find_spec
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from receiver.domain.secret import Secret
from receiver.settings import secrets
from receiver.settings.addresses import read_optional_url
from receiver.settings.fields import ParsedField, ReferenceField, Section
from receiver.settings.values import InvalidValue, read_text

_SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()-]{1,200}")  # every store and tool writes these alike
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_EXAMPLE = 'write it like "s3://bucket/prefix"'


def _read_bucket_url(raw: object) -> str:
    if raw == "":
        return ""
    text = read_text(raw).rstrip("/")
    if not text.startswith(_SCHEME):
        raise InvalidValue(
            f'must begin with "s3://"; {_EXAMPLE}, and put the address of another S3 service into endpoint'
        )
    bucket, *prefix = text.removeprefix(_SCHEME).split("/")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidValue(
            "has no valid bucket name: 3 to 63 lower-case letters, digits, dots and hyphens; " + _EXAMPLE
        )
    if any(not _SEGMENT.fullmatch(segment) or segment.strip(".") == "" for segment in prefix):
        raise InvalidValue(
            "has an invalid prefix: use letters, digits and !_.*'()- between single slashes; " + _EXAMPLE
        )
    return text


def _read_region(raw: object) -> str:
    text = read_text(raw)
    if not _REGION.fullmatch(text):
        raise InvalidValue('must be the name of a region, such as "eu-central-1"; some stores need "auto"')
    return text


class StorageSettings(Section):
    """The remote copy of results."""

    url: Annotated[str, ParsedField(_read_bucket_url)] = Field(
        default="", description="The bucket and the prefix of keys: s3://bucket/prefix. Empty: nothing is copied."
    )
    endpoint: Annotated[str, ParsedField(read_optional_url)] = Field(
        default="", description="URL of the store's API, if it is not Amazon's."
    )
    region: Annotated[str, ParsedField(_read_region)] = Field(default="us-east-1", description="The bucket's region.")
    access_key: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="The access key of the store."
    )
    secret_key: Annotated[Secret | None, ReferenceField(secrets.read_optional_secret)] = Field(
        default=None, description="The secret that belongs to access_key; signs requests and is never sent."
    )

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.url.removeprefix(_SCHEME).partition("/")[0]

    @property
    def prefix(self) -> str:
        """The prefix of every key, without slashes at its ends."""
        return self.url.removeprefix(_SCHEME).partition("/")[2]

    @field_validator("url")
    @classmethod
    def _extra_is_installed(cls, value: str) -> str:
        if value and find_spec("aiobotocore") is None:
            raise InvalidValue(
                "needs the extra `storage`, which is not installed; in a checkout: make storage, "
                "else: pip install 'kling-receiver[storage]'"
            )
        return value

    @field_validator("access_key", "secret_key")
    @classmethod
    def _has_both_halves(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        url = info.data.get("url")
        if url and not value:
            raise InvalidValue(f"is missing; {url} needs access_key and secret_key")
        if value and url == "":
            raise InvalidValue(f"is given without url; {_EXAMPLE}, or remove it")
        return value
