"""`kling-receiver expose`: prints a proxy configuration for the public listener, ready to be saved.

A callback's path contains the token, so no template logs a path. Each forwards only the paths the listener serves,
never redirects, and reports the client's address. ``[public] proxies`` must then trust the proxy.
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
from receiver.cli.value_kinds import FILE, TEXT
from receiver.domain.errors import ReceiverError
from receiver.settings import Address, PublicSettings, load
from receiver.settings.addresses import read_optional_url

_PLAIN = re.compile(r"[A-Za-z0-9:/._~\[\]-]+")
_PORTS = {"https": 443, "http": 80}
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- the listener binds it; a proxy connects to loopback
_BODY_MARGIN = 4096  # above the receiver's own limit, so that the receiver itself refuses a body that is too large


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlan:
    """The public URL that Kling calls, and the listener it is forwarded to."""

    url: str
    upstream: Address
    max_body: int
    certificate: Path
    certificate_key: Path

    @property
    def host(self) -> str:
        """The host name that Kling calls."""
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
        """The path prefix, if the host also serves other things."""
        return urlsplit(self.url).path

    @property
    def proxies(self) -> tuple[str, ...]:
        """The addresses from which a proxy on this machine connects."""
        try:
            return (str(ip_address(self.upstream.host)),)
        except ValueError:
            return ("127.0.0.1", "::1")

    def fill(self, template: str) -> str:
        """Return the template with its placeholders replaced."""
        values = {
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
        for placeholder, value in values.items():
            template = template.replace(placeholder, value)
        return template


def expose(
    by: Annotated[
        Literal["nginx", "caddy", "cloudflared"], Parameter(help="Proxy: nginx, caddy or cloudflared.")
    ] = "nginx",
    /,
    *,
    host: Annotated[
        str | None, TEXT, Parameter(help="Host name for Kling to call, instead of the one in [public] url.")
    ] = None,
    certificate: Annotated[
        Path | None, FILE, Parameter(help="For nginx: file of the certificate chain (default: certbot's path).")
    ] = None,
    certificate_key: Annotated[Path | None, FILE, Parameter(help="For nginx: file of its private key.")] = None,
    common: CommonOptions = COMMON,
) -> int:
    """Print a proxy configuration that exposes only the public listener and logs no tokens."""
    settings = load(common.config, needs_secrets=False).settings
    url = _url(settings.public, host)
    folder = Path("/etc/letsencrypt/live") / (urlsplit(url).hostname or "")
    plan = ProxyPlan(
        url=url,
        upstream=_upstream(settings.public.listen),
        max_body=settings.callbacks.max_body,
        certificate=certificate or folder / "fullchain.pem",
        certificate_key=certificate_key or folder / "privkey.pem",
    )
    write, advice = _KINDS[by]
    print(write(plan), end="")  # noqa: T201 -- the text of a file, printed exactly
    render.notice(advice.replace("@HOST@", plan.host))
    _print_config_hint(plan, settings.public)
    return OK


def _url(public: PublicSettings, host: str | None) -> str:
    """Return the URL for Kling to call: of the option --host, else of the configuration."""
    if host is None and not public.url:
        raise UsageError("The public host name is not configured.", remedy="Add --host hooks.example.com.")
    url = public.url if host is None else host if "://" in host else f"https://{host}"
    try:
        url = read_optional_url(url)
    except ValueError as exc:
        raise UsageError(f"--host: {exc}.") from exc
    if not _PLAIN.fullmatch(url):
        raise UsageError(
            f"The URL {url!r} contains characters that are special in a proxy configuration.",
            remedy="Use letters, digits and :/._~[]- only.",
        )
    return url


def _upstream(listen: Address) -> Address:
    if not listen.port:
        raise NoFixedPort(
            "[public] listen has no fixed port, so a proxy cannot be configured for it.",
            remedy='Set one: listen = "127.0.0.1:8700".',
        )
    return Address(_LOOPBACK_OF.get(listen.host, listen.host), listen.port)


class NoFixedPort(ReceiverError):
    """The public listener has no fixed port."""

    code = "no_fixed_port"


def _print_config_hint(plan: ProxyPlan, public: PublicSettings) -> None:
    """Print the settings that the configuration still lacks for this proxy."""
    trusted = {str(network.network_address) for network in public.proxies if network.num_addresses == 1}
    lines = [] if plan.url == public.url else [f'url = "{plan.url}"']
    if not trusted.issuperset(plan.proxies):
        addresses = ", ".join(f'"{address}"' for address in plan.proxies)
        lines.append(f"proxies = [{addresses}]      # for a proxy on this machine; else the proxy's address")
    if lines:
        render.notice("Add to config.toml, then restart the service:")
        for line in ["[public]", *lines]:
            render.notice(f"  {line}")
    render.notice(f"Then test: curl {plan.url}/healthz")


_NGINX = """\
# Forwards Kling's callbacks from @URL@ to the receiver at @UPSTREAM@. Made by `kling-receiver expose nginx`.
#
# A callback's path contains its token, and nginx writes paths into both of its logs. So both are off for this server.
# The receiver logs every callback without its token.
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
        client_body_buffer_size @MAX_BODY@;  # a body is forwarded once it is complete, and never written to disk

        proxy_pass http://@UPSTREAM@@TO_CALLBACKS@;
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $remote_addr;  # the real client address; a value sent by the client is dropped
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
    # Not port 80, on purpose: a redirect to HTTPS would turn Kling's POST into a GET, or fail.
    listen @PORT@ ssl;
    # listen [::]:@PORT@ ssl;  # if the host also has an IPv6 address
    ssl_certificate @CERTIFICATE@;
    ssl_certificate_key @CERTIFICATE_KEY@;
    ssl_protocols TLSv1.2 TLSv1.3;
"""


def _nginx(plan: ProxyPlan) -> str:
    listen = _NGINX_TLS if plan.has_tls else "    listen @PORT@;\n"
    # With a path in proxy_pass, nginx replaces the location's prefix. Without one it forwards the path unchanged.
    onward = "/callbacks/" if plan.prefix else ""
    return plan.fill(_NGINX.replace("@LISTEN@\n", listen).replace("@TO_CALLBACKS@", onward))


_CADDY = """\
# Forwards Kling's callbacks from @URL@ to the receiver at @UPSTREAM@. Made by `kling-receiver expose caddy`.
#
# A callback's path contains its token. Caddy has no access log by default, but it logs errors with the whole path:
# the filter removes the token. If you add an access log for this site, it needs the same filter.
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
# Forwards Kling's callbacks from @URL@ to the receiver at @UPSTREAM@. Made by `kling-receiver expose cloudflared`.
#
# A callback's path contains its token, and cloudflared logs the whole URL of a failed request. So it logs only fatal
# errors. The receiver logs every callback without its token.
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
            f"A Cloudflare tunnel serves https:// and a host name only, without a port or a path, not {plan.url}.",
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
        "Save it as /etc/caddy/Caddyfile, or merge it into yours; then: systemctl reload caddy",
    ),
    "cloudflared": (
        _cloudflared,
        (
            "First: cloudflared tunnel create --credentials-file /etc/cloudflared/kling-receiver.json kling-receiver"
            " && cloudflared tunnel route dns kling-receiver @HOST@. Save this as /etc/cloudflared/config.yml; then:"
            " cloudflared tunnel run. At Cloudflare, exclude /callbacks/ from challenges and bot rules."
        ),
    ),
}
