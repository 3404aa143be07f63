"""`kling-receiver expose`: settings for what stands before the public listener, printed to be saved as they are.

A callback's path holds the token, so none of these lets a path into a log. They pass on what the listener serves and
nothing else, redirect nothing, and say who called, which ``[public] proxies`` then has to believe.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import COMMON, CommonOptions, UsageError
from receiver.domain.errors import ReceiverError
from receiver.settings import Address, PublicSettings, load
from receiver.settings.addresses import read_optional_url

_PLAIN = re.compile(r"[A-Za-z0-9:/._~\[\]-]+")
_PORTS = {"https": 443, "http": 80}
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what others bind; a proxy calls loopback
_BODY_MARGIN = (
    4096  # a little more than the receiver takes, so that a body too large is refused in the receiver's words
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlan:
    """What Kling calls, and where that leads."""

    url: str
    upstream: Address
    max_body: int
    certificate: Path
    certificate_key: Path

    @property
    def host(self) -> str:
        """The name that Kling calls."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port that Kling calls."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @property
    def has_tls(self) -> bool:
        """Whether Kling calls by HTTPS."""
        return self.url.startswith("https:")

    @property
    def prefix(self) -> str:
        """The path before ours, if the name serves other things too."""
        return urlsplit(self.url).path

    @property
    def proxies(self) -> tuple[str, ...]:
        """Where a proxy on this machine calls us from."""
        try:
            return (str(ip_address(self.upstream.host)),)
        except ValueError:
            return ("127.0.0.1", "::1")

    def fill(self, template: str) -> str:
        """Put what is planned into a template's places."""
        places = {
            "@URL@": self.url,
            "@HOST@": self.host,
            "@PORT@": str(self.port),
            "@SITE@": f"{urlsplit(self.url).scheme}://{urlsplit(self.url).netloc}",
            "@PREFIX@": self.prefix,
            "@UPSTREAM@": str(self.upstream),
            "@MAX_BODY@": str(self.max_body + _BODY_MARGIN),
            "@CERTIFICATE@": str(self.certificate),
            "@CERTIFICATE_KEY@": str(self.certificate_key),
        }
        for place, value in places.items():
            template = template.replace(place, value)
        return template


def expose(
    by: Annotated[Literal["nginx", "caddy", "cloudflared"], Parameter(help="nginx, caddy or cloudflared.")] = "nginx",
    /,
    *,
    host: Annotated[
        str | None, Parameter(help="The name that Kling is to call, instead of the one in [public] url.")
    ] = None,
    certificate: Annotated[
        Path | None, Parameter(help="For nginx: the certificate's chain (default: where certbot puts it).")
    ] = None,
    certificate_key: Annotated[Path | None, Parameter(help="For nginx: its private key.")] = None,
    common: CommonOptions = COMMON,
) -> int:
    """Print settings that make the public listener, and only that, reachable for Kling, with no token in any log."""
    settings = load(common.config).settings
    url = _url(settings.public, host)
    lies_in = Path("/etc/letsencrypt/live") / (urlsplit(url).hostname or "")
    plan = ProxyPlan(
        url=url,
        upstream=_upstream(settings.public.listen),
        max_body=settings.callbacks.max_body,
        certificate=certificate or lies_in / "fullchain.pem",
        certificate_key=certificate_key or lies_in / "privkey.pem",
    )
    write, advice = _KINDS[by]
    print(write(plan), end="")  # noqa: T201 -- it is a file's text
    render.notice(advice.replace("@HOST@", plan.host))
    _print_config_hint(plan, settings.public)
    return OK


def _url(public: PublicSettings, host: str | None) -> str:
    """Tell what Kling is to call: the name that was asked for, else what the configuration says."""
    if host is None and not public.url:
        raise UsageError("Nothing says under which name Kling is to call.", remedy="Add --host hooks.example.com.")
    url = public.url if host is None else host if "://" in host else f"https://{host}"
    try:
        url = read_optional_url(url)
    except ValueError as exc:
        raise UsageError(f"--host: {exc}.") from exc
    if not _PLAIN.fullmatch(url):
        raise UsageError(
            "The URL holds characters that mean something else in such settings.", remedy="Use a plain one."
        )
    return url


def _upstream(listen: Address) -> Address:
    if not listen.port:
        raise NoFixedPort(
            "[public] listen takes any free port, which no proxy can know.",
            remedy='Give it one: listen = "127.0.0.1:8700".',
        )
    return Address(_LOOPBACK_OF.get(listen.host, listen.host), listen.port)


class NoFixedPort(ReceiverError):
    """A listener that nothing can be put before."""

    code = "no_fixed_port"


def _print_config_hint(plan: ProxyPlan, public: PublicSettings) -> None:
    """Say what the configuration has to say, where it does not."""
    believed = {str(network.network_address) for network in public.proxies if network.num_addresses == 1}
    lines = [] if plan.url == public.url else [f'url = "{plan.url}"']
    if not believed.issuperset(plan.proxies):
        named = ", ".join(f'"{address}"' for address in plan.proxies)
        lines.append(f"proxies = [{named}]      # if it runs on this machine; else the address it calls from")
    if lines:
        render.notice("In config.toml, before the next start of the service:")
        for line in ["[public]", *lines]:
            render.notice(f"  {line}")
    render.notice(f"Then try: curl {plan.url}/healthz")


_NGINX = """\
# Kling's callbacks to @URL@, on to the receiver at @UPSTREAM@. From `kling-receiver expose nginx`.
#
# The path of a callback holds its token, and nginx writes paths into both of its logs: for this name both are off.
# What matters of each callback is in the receiver's log.
server {
@LISTEN@
    server_name @HOST@;

    access_log off;
    error_log /dev/null emerg;

    client_header_timeout 10s;
    client_body_timeout 10s;
    send_timeout 10s;

    location ^~ @PREFIX@/callbacks/ {
        limit_except POST { deny all; }
        client_max_body_size @MAX_BODY@;
        client_body_buffer_size @MAX_BODY@;  # a body is passed on when it is whole, and is never written to a disk

        proxy_pass http://@UPSTREAM@@TO_CALLBACKS@;
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $remote_addr;  # whoever really called, whatever they say
        proxy_connect_timeout 5s;
        proxy_send_timeout 15s;
        proxy_read_timeout 30s;
    }

    location = @PREFIX@/healthz {
        limit_except GET { deny all; }
        proxy_pass http://@UPSTREAM@/healthz;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
    }

    location / {
        return 404;
    }
}
"""

_NGINX_TLS = """\
    # Not on port 80, on purpose: a redirect to https would turn Kling's POST into a GET, or end it.
    listen @PORT@ ssl;
    # listen [::]:@PORT@ ssl;  # if the name has an IPv6 address too
    ssl_certificate @CERTIFICATE@;
    ssl_certificate_key @CERTIFICATE_KEY@;
    ssl_protocols TLSv1.2 TLSv1.3;
"""


def _nginx(plan: ProxyPlan) -> str:
    listen = _NGINX_TLS if plan.has_tls else "    listen @PORT@;\n"
    # With a path of its own a location's is replaced, without one the request's goes on as it came.
    onward = "/callbacks/" if plan.prefix else ""
    return plan.fill(_NGINX.replace("@LISTEN@\n", listen).replace("@TO_CALLBACKS@", onward))


_CADDY = """\
# Kling's callbacks to @URL@, on to the receiver at @UPSTREAM@. From `kling-receiver expose caddy`.
#
# The path of a callback holds its token. Caddy writes no access log unless it is told to, but it tells of errors with
# the whole path: the filter leaves the token out. An access log of this site needs the same filter.
{
	auto_https disable_redirects
	log default {
		format filter {
			wrap json
			fields {
				request>uri regexp /callbacks/.* /callbacks/***
			}
		}
	}
	servers {
		timeouts {
			read_header 10s
			read_body 30s
			idle 75s
		}
	}
}

@SITE@ {
	@callback {
		method POST
		path @PREFIX@/callbacks/*
	}
	@health {
		method GET HEAD
		path @PREFIX@/healthz
	}
	handle @callback {
@STRIP@		request_body {
			max_size @MAX_BODY@
		}
		reverse_proxy @UPSTREAM@ {
			transport http {
				dial_timeout 5s
				response_header_timeout 30s
			}
		}
	}
	handle @health {
@STRIP@		reverse_proxy @UPSTREAM@
	}
	handle {
		respond 404
	}
	handle_errors {
		@large expression `{err.message}.contains("body too large")`
		respond @large 413
		respond "" {err.status_code}
	}
}
"""


def _caddy(plan: ProxyPlan) -> str:
    strip = "\t\turi strip_prefix @PREFIX@\n" if plan.prefix else ""
    return plan.fill(_CADDY.replace("@STRIP@", strip))


_CLOUDFLARED = """\
# Kling's callbacks to @URL@, on to the receiver at @UPSTREAM@. From `kling-receiver expose cloudflared`.
#
# The path of a callback holds its token, and cloudflared's errors name the whole URL of a request that failed: so it
# logs what is fatal, and nothing else. What matters of each callback is in the receiver's log.
tunnel: kling-receiver
credentials-file: /etc/cloudflared/kling-receiver.json
loglevel: fatal
transport-loglevel: fatal

ingress:
  - hostname: "@HOST@"
    path: "^/callbacks/[A-Za-z0-9_-]+$"
    service: "http://@UPSTREAM@"
    originRequest:
      connectTimeout: 5s
  - hostname: "@HOST@"
    path: "^/healthz$"
    service: "http://@UPSTREAM@"
    originRequest:
      connectTimeout: 5s
  - service: http_status:404
"""


def _cloudflared(plan: ProxyPlan) -> str:
    if plan.prefix or not plan.has_tls or plan.port != _PORTS["https"]:
        raise UsageError(
            "A tunnel of Cloudflare's serves https:// and a name alone, without a port or a path.",
            remedy=f"Add --host {plan.host}.",
        )
    return plan.fill(_CLOUDFLARED)


_KINDS: Mapping[str, tuple[Callable[[ProxyPlan], str], str]] = {
    "nginx": (
        _nginx,
        "Save it as /etc/nginx/conf.d/kling-receiver.conf; then: nginx -t && systemctl reload nginx",
    ),
    "caddy": (
        _caddy,
        "Save it as /etc/caddy/Caddyfile, or put its parts into yours; then: systemctl reload caddy",
    ),
    "cloudflared": (
        _cloudflared,
        (
            "First: cloudflared tunnel create --credentials-file /etc/cloudflared/kling-receiver.json kling-receiver"
            " && cloudflared tunnel route dns kling-receiver @HOST@. Save this as /etc/cloudflared/config.yml; then:"
            " cloudflared tunnel run. At Cloudflare, let no challenge or bot rule meet requests to /callbacks/."
        ),
    ),
}
