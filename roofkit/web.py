"""The one door to the network: which addresses may be contacted, how often and how long, and what errors may say.

Contacted are the addresses that the user gave, and public ones that these name (the assets of a catalogue, redirects).
Private networks, this machine and link-local services are contacted only where the user's own addresses lie there.
Proxies (HTTPS_PROXY, NO_PROXY) and certificates (REQUESTS_CA_BUNDLE, SSL_CERT_FILE) are those of the environment.
"""

import contextlib
import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from roofkit.errors import RoofError, SettingsError

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HOPS = 5
PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before the first retry, doubled for each further one; and at most
VALUE = 8  # letters of a value in a query from which on it may be a credential
LIMIT = 512 * 2**20  # bytes of one answer
FAULTS = (requests.exceptions.RequestException, HTTPError, OSError)
VARIABLE = re.compile(r"\$\{(\w+)\}")
REASON = re.compile(r'<Message>([^<]*)</Message>|"message":\s*"((?:[^"\\]|\\.)*)"')  # in an answer of XML or JSON
SECRET = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+")
QUERY = re.compile(r"(https?://)(?:[^\s/@'\"]+@)?([^\s?#'\"]+)[?#][^\s'\"]*")
RELATIVE = re.compile(r"(\burl: /[^\s?'\"]*)\?[^\s'\")]*")  # as connection errors name what was asked for
USER = re.compile(r"(https?://)[^\s/@'\"]+@")


class WebError(RoofError, OSError):
    """A server is not reached, refuses, or answers with something else."""


class StoppedError(Exception):
    """Somebody else failed, and this request is no longer wanted."""


class Web(requests.Session):
    """A session that retries what passes, refuses private addresses, and bounds time and size.

    It is a `requests.Session`, so that clients which take one work through it. Answers are read whole. Statuses that
    may pass (429, 5xx) and broken connections are tried again, `retries` times, waiting longer each time or as long as
    the server asks; all other answers are handed on.

    Args:
        retries: Further tries of a request that failed in a way that may pass.
        timeout: Seconds without a byte after which a server counts as silent.
        deadline: Seconds for one request with all its tries.
        parallel: Connections that are kept open.
        limit: Bytes of one answer; None: `LIMIT`.
    """

    def __init__(
        self,
        *,
        retries: int = 5,
        timeout: float = 60.0,
        deadline: float = 600.0,
        parallel: int = 10,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.retries, self.timeout, self.deadline = retries, timeout, deadline
        self.limit = limit
        self.stopped = threading.Event()
        self.bytes = 0
        self._given: set[tuple[str, int]] = set()
        self._near: set[str] = set()
        self._secrets: set[str] = set()
        adapter = HTTPAdapter(pool_maxsize=parallel, max_retries=0)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self.headers["User-Agent"] = "roof-classify"

    # ---- addresses -------------------------------------------------------------------------------------------------

    def give(self, *addresses: str) -> None:
        """Allow addresses that the user named: these hosts at these ports."""
        for address in addresses:
            self._hide_parts(address, values=True)
            self._given.add(self._place(address))

    def give_near(self, address: str) -> None:
        """Allow that host at every port too: of a catalogue, whose assets another server beside it may hold."""
        self._near.add(self._place(address)[0])

    def _place(self, address: str) -> tuple[str, int]:
        """Host and port of an address.

        Raises:
            WebError: It has none.
        """
        try:
            return _host(address)
        except ValueError:
            raise WebError(self.safe(address), "not an address", "http(s)://host/…", "Check the address.") from None

    def _hide_parts(self, address: str, *, values: bool = False) -> None:
        """Hide what credentials an address may hold: password, query and, of the user's own, longer values in it."""
        with contextlib.suppress(ValueError):
            parts = urlsplit(address)
            longer = [value for _, value in parse_qsl(parts.query) if len(value) >= VALUE] if values else []
            self.hide(parts.query, parts.password, *longer)

    def hide(self, *secrets: str | None) -> None:
        """Never show these texts in an error."""
        for secret in secrets:
            if secret and len(secret) > 3:
                self._secrets |= {secret, requests.utils.requote_uri(secret), quote(secret, safe="")}

    def check(self, address: str, *, redirected: bool = False) -> None:
        """Raise WebError unless that address may be contacted.

        Raises:
            WebError: It is no http address, or lies in a private network that the user did not name.
        """
        self._hide_parts(address)
        if not address.lower().startswith(("http://", "https://")):
            raise WebError(self.safe(address), "no http or https address", "one", "Check the address.")
        host, port = self._place(address)
        if (host, port) in self._given or (host in self._near and not redirected):
            return
        proxied = bool(self.environment(address).get("proxies", {}).get(urlsplit(address).scheme))
        for found in _addresses(host, port, proxied=proxied):
            if not found.is_global or found.is_multicast:
                what = "a redirect to" if redirected else "named by a server, and it is in"
                expected = "public addresses, and those given by you"
                advice = "Do not use that server, or give this address yourself if you trust it."
                raise WebError(self.safe(address), f"{what} a private network ({found})", expected, advice)

    def safe(self, text: object) -> str:
        """A text without credentials: no user names and queries in addresses, no tokens; at most a few lines long."""
        shown = " ".join(str(text).split())
        for secret in sorted(self._secrets, key=len, reverse=True):
            shown = shown.replace(secret, "***")
        shown = SECRET.sub(r"\1 ***", USER.sub(r"\1", RELATIVE.sub(r"\1", QUERY.sub(r"\1\2", shown))))
        return shown if len(shown) <= 400 else shown[:400] + "…"

    def environment(self, address: str) -> dict[str, Any]:
        """Proxies and certificates as the environment has them for that address."""
        found = dict(self.merge_environment_settings(address, {}, None, None, None))
        if found.get("verify") is True and os.environ.get("SSL_CERT_FILE"):
            found["verify"] = os.environ["SSL_CERT_FILE"]
        return found

    # ---- requests --------------------------------------------------------------------------------------------------

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """The answer to a request, redirects followed; what may pass is tried again.

        Raises:
            WebError: The address is refused, the server is not reached, or still fails after the last try.
        """
        started = time.monotonic()
        number = 0
        while True:
            response, problem = self._try(request, started, options)
            if response is not None and response.status_code not in TRANSIENT:
                return response
            pause = pause_before(number, response)
            number += 1
            spent = time.monotonic() - started
            if number > self.retries or spent + pause > self.deadline:
                raise self._failed(str(request.url), response, problem, number)
            if self.stopped.wait(pause):
                raise StoppedError

    def _try(
        self, request: requests.PreparedRequest, started: float, options: Mapping[str, Any]
    ) -> tuple[requests.Response | None, Exception | None]:
        try:
            return self._followed(request, started, options), None
        except RoofError:
            raise
        except requests.exceptions.SSLError as error:
            if not re.search("certificate|hostname", str(error), re.IGNORECASE):
                return None, error  # it broke off: that may pass
            advice = "Set REQUESTS_CA_BUNDLE to your certificates where a proxy has its own."
            where = self.safe(request.url)
            raise WebError(where, f"its certificate is not trusted ({self.safe(error)})", "one", advice) from None
        except FAULTS as error:
            return None, error

    def _followed(
        self, request: requests.PreparedRequest, started: float, options: Mapping[str, Any]
    ) -> requests.Response:
        for hop in range(HOPS):
            self.check(str(request.url), redirected=hop > 0)
            response = self._once(request, started, options)
            target = response.headers.get("Location")
            if response.status_code not in REDIRECTS or not target or not options.get("allow_redirects", True):
                return response
            if request.method not in ("GET", "HEAD"):
                break
            request = self._hop(request, response, target)
        found = f"redirected ({request.method}, {HOPS} times at most)"
        raise WebError(self.safe(request.url), found, "an answer", "Give the address that it leads to.")

    def _hop(
        self, request: requests.PreparedRequest, response: requests.Response, target: str
    ) -> requests.PreparedRequest:
        """The request that a redirect leads to; neither credentials nor cookies go along to another host."""
        request = request.copy()
        try:
            request.url = urljoin(str(response.url), target)
        except ValueError:
            found = f"a redirect to {self.safe(target)[:100]}"
            raise WebError(self.safe(request.url), found, "one to an address", "Check the address.") from None
        self._hide_parts(request.url)
        self._place(request.url)
        request.headers.pop("Cookie", None)
        self.rebuild_auth(request, response)
        return request

    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing: requests would read the body of a redirect here, however long; `_followed` goes by its address."""
        return iter(())

    def _once(self, request: requests.PreparedRequest, started: float, options: Mapping[str, Any]) -> requests.Response:
        if self.stopped.is_set():
            raise StoppedError
        kwargs = {**self.environment(str(request.url)), "timeout": options.get("timeout") or self.timeout}
        kwargs |= {"stream": True, "allow_redirects": False}
        with contextlib.closing(super().send(request, **kwargs)) as response:
            self.read(response, started)
        return response

    def read(self, response: requests.Response, started: float) -> None:
        """Fetch the rest of an answer, of a request that was `started` then (time.monotonic).

        Raises:
            WebError: It is too large.
            requests.exceptions.RequestException: It breaks off, or is not whole within the deadline.
        """
        parts, size = [], 0
        # As it comes, not in full blocks, for which a slow server may take longer than the deadline.
        while part := response.raw.read1(1 << 18, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > (self.limit or LIMIT):
                expected = f"at most {(self.limit or LIMIT) >> 20} MiB"
                advice = "Check the address, and that its server knows ranges."
                raise WebError(self.safe(response.url), "an answer without end", expected, advice)
            if time.monotonic() - started > self.deadline:
                raise requests.exceptions.Timeout(f"not done in {self.deadline:g} s")
            if self.stopped.is_set():
                raise StoppedError
        response._content = b"".join(parts)
        self.bytes += size

    def _failed(
        self, address: str, response: requests.Response | None, problem: Exception | None, tries: int
    ) -> WebError:
        advice = "Try again later: what was fetched is kept."
        if response is not None:
            return WebError(self.safe(address), f"{status(response)} after {tries} tries", "an answer", advice)
        kind = "no answer" if isinstance(problem, requests.exceptions.Timeout) else "not reached"
        found = f"{kind} after {tries} tries ({self.safe(problem)})"
        return WebError(self.safe(address), found, "a server that answers", f"Check address and network. {advice}")

    # ---- what sources use ------------------------------------------------------------------------------------------

    def fetch(
        self, address: str, *, headers: Mapping[str, str] | None = None, accept: tuple[int, ...] = (200,)
    ) -> requests.Response:
        """The answer to a GET with one of the statuses in `accept`.

        Raises:
            WebError: Another status, or as for `send`.
        """
        response = self.send(self.prepared("GET", address, headers=dict(headers or {})))
        if response.status_code not in accept:
            raise self.refused(response)
        return response

    def prepared(self, method: str, address: str, **options: Any) -> requests.PreparedRequest:
        """A request, with what the session adds to it.

        Raises:
            WebError: The address is none.
        """
        self._place(address)
        try:
            return self.prepare_request(requests.Request(method, address, **options))
        except ValueError:
            raise WebError(self.safe(address), "not an address", "http(s)://host/…", "Check the address.") from None

    def refused(self, response: requests.Response) -> WebError:
        """The error for an answer with an unexpected status."""
        advice = {
            401: "Check your credentials.",
            403: "Check that your credentials may read it.",
            404: "Check the address.",
        }.get(response.status_code, "Check address and options.")
        text = "" if response.headers.get("Content-Type", "").startswith(("image", "text/html")) else response.text
        reason = REASON.search(text)  # beside it S3 tells what it was asked, credentials and all
        text = (reason[1] or reason[2] or "") if reason else text
        found = status(response) + (f" ({self.safe(text)[:200]})" if text.strip() else "")
        return WebError(self.safe(response.url), found, "200 OK", advice)


def expanded(address: str, web: Web, setting: str = "download_args.address") -> str:
    """An address with ${NAME} replaced from the environment; what is put in is never shown.

    Raises:
        SettingsError: There is no such variable.
    """

    def value(found: "re.Match[str]") -> str:
        text = os.environ.get(found[1])
        if text is None:
            raise SettingsError(setting, f"${{{found[1]}}}", "a variable of the environment that is set", "Set it.")
        web.hide(text, quote(text), quote(text, safe=""))
        return text

    return VARIABLE.sub(value, address)


def status(response: requests.Response) -> str:
    """A status in words, as `404 Not Found`."""
    with contextlib.suppress(ValueError):
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    return str(response.status_code)


def _host(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        ValueError: It has none.
    """
    parts = urlsplit(address)
    if not parts.hostname:
        raise ValueError(address)
    return parts.hostname.lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _addresses(host: str, port: int, *, proxied: bool) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """What a host name stands for; nothing where a proxy looks it up, or nobody can."""
    with contextlib.suppress(ValueError):
        return [_plain(ipaddress.ip_address(host))]
    if proxied:
        return []
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [_plain(ipaddress.ip_address(str(entry[4][0]).split("%")[0])) for entry in found]
    return []


def _plain(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return getattr(found, "ipv4_mapped", None) or found


def pause_before(number: int, response: requests.Response | None) -> float:
    """Seconds to wait after try `number` (from 0): as the server asks, else longer each time."""
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    with contextlib.suppress(ValueError, TypeError):
        seconds = float(asked) if asked.strip().isdigit() else parsedate_to_datetime(asked).timestamp() - time.time()
        return min(max(seconds, 0.0), LONGEST_PAUSE)
    return float(min(PAUSE * 2**number, LONGEST_PAUSE))
