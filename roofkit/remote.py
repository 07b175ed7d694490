"""Rasters at addresses, read part by part: web servers, S3 and what speaks its protocol, Google Cloud Storage.

Every request goes through `Web`, so that timeouts, retries and refused networks are the same for all; a store only says
how an object is asked for. Credentials and endpoints are those of the environment, as the makers' own libraries find
them: for S3 all that botocore knows (AWS_ACCESS_KEY_ID, AWS_PROFILE, a machine's role, AWS_ENDPOINT_URL, …), for Google
its application default credentials and STORAGE_EMULATOR_HOST. Where there are none, requests go without.
"""

import contextlib
import json
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from requests import Response

from roofkit.addresses import BUCKETS, SUFFIXES, WEB, Address
from roofkit.artifacts import fingerprint
from roofkit.errors import BadInputError, MissingInputError
from roofkit.listing import PAGES, entries, seconds_of
from roofkit.range_file import ANSWERS, WEAK, BlockCache, RemoteBytes
from roofkit.web import Web, WebError, expanded
from roofkit.workers import once

ANSWER = 64 * 2**20  # bytes of one answer: a block, a page of a list, or a whole file where a server knows no ranges
CACHE = BlockCache(64)  # 32 MiB, for each process
SIGNED, RENEWED = 3600, 600  # seconds that a signature holds, and after which there is a new one
GOOGLE = "https://storage.googleapis.com"


def raster_addresses(address: Address, extension: str = "tif") -> list[Address]:
    """The raster at an address, or those of a folder, sorted by name, each pinned to the version that is there now.

    Raises:
        MissingInputError: The folder holds none.
        BadInputError: It is no address of a GeoTIFF or folder, or its server says nothing by which a change shows.
        WebError: The server is not reached, or refuses.
    """
    if address.is_raster:
        return [pinned(address)]
    if address.name or extension != "tif":
        kind = f"{address.name}" if address.name else f"extension_args.extension {extension}"
        expected = "a name that ends in .tif, or a folder, which ends in /"
        raise BadInputError(str(address), kind, expected, "GeoTIFF is what can be read from the network.")
    with _named(address):
        names = list(_store(address).names(address))
    found = sorted((one for one in names if one.is_raster and not one.name.startswith(".")), key=lambda one: one.name)
    if not found:
        state = f"no {SUFFIXES[0]} file among {len(names)} names"
        raise MissingInputError(str(address), state, f"*{SUFFIXES[0]} files in that folder", "Check the address.")
    return [pinned(one) for one in found]


def pinned(address: Address) -> Address:
    """The address with size and version of what is there now, unless it has them."""
    if address.is_pinned:
        return address
    data = StoredBytes(address)
    return replace(address, size=data.size, version=data.version, modified=data.modified)


def address_digest(address: Address) -> str:
    """A hash that changes when the file at an address does: of the address, its size and its version."""
    found = pinned(address)
    return fingerprint(str(found), found.size, found.version)


class StoredBytes(RemoteBytes):
    """The bytes at an address, of the version that it is pinned to, else of the first that is seen.

    Raises:
        WebError: The server is not reached, or refuses.
        BadInputError: There are other bytes than before, or nothing by which that would show.
    """

    def __init__(self, address: Address) -> None:
        self._at, self._store = address, _store(address)
        size, version = (address.size, address.version) if address.is_pinned else (-1, "")
        super().__init__(self._store.web, address.text, where=str(address), size=size, version=version)
        if not self.version or self.version.startswith(WEAK):
            found, expected = "neither a strong ETag nor Last-Modified", "one of them, by which a change shows"
            raise BadInputError(self.where, found, expected, "Fetch the file to this machine first.")

    @property
    def _blocks(self) -> tuple[BlockCache, object]:
        return CACHE, (self.address, self.size, self.version)

    def _ask(self, headers: Mapping[str, str]) -> Response:
        with _named(self._at):
            return self._store.get(self._at, headers)


class Store(ABC):
    """How objects of one kind of address are asked for; one for each process, used by all of its threads."""

    def __init__(self) -> None:
        self.web = Web(limit=ANSWER)

    @abstractmethod
    def get(self, address: Address, headers: Mapping[str, str]) -> Response:
        """The answer to a request for an object, with one of the statuses in `ANSWERS`."""

    @abstractmethod
    def names(self, folder: Address) -> Iterator[Address]:
        """What lies in a folder, but not in folders in it."""


class WebStore(Store):
    """Web servers; ${NAME} in an address is replaced from the environment."""

    def get(self, address: Address, headers: Mapping[str, str]) -> Response:
        """A file."""
        full = expanded(address.text, self.web, str(address))
        self.web.give(full)
        return self.web.fetch(full, headers=headers, accept=ANSWERS)

    def names(self, folder: Address) -> Iterator[Address]:
        """Nobody knows."""
        advice = "Name one file at a time, or use s3:// or gs://."
        raise BadInputError(str(folder), "a folder of a web server, which has no list", "a file, ….tif", advice)


class S3Store(Store):
    """S3: botocore makes and signs addresses, which are then asked for like any other."""

    def __init__(self) -> None:
        super().__init__()
        self._session = _botocore_session()
        self._making = threading.Lock()
        self._clients: dict[str | None, Any] = {}
        self._regions: dict[str, str] = {}  # of buckets that lie elsewhere than the environment says
        self._signed: dict[tuple[object, ...], str] = {}
        self._moment = 0

    def get(self, address: Address, headers: Mapping[str, str]) -> Response:
        """An object."""
        return self._ask(address, "get_object", headers, Key=address.key)

    def names(self, folder: Address) -> Iterator[Address]:
        """Names below the prefix, as the bucket lists them."""

        def page(token: str | None) -> bytes:
            more = {"ContinuationToken": token} if token else {}
            answer = self._ask(folder, "list_objects_v2", {}, Prefix=folder.key, Delimiter="/", **more)
            return bytes(answer.content)

        for entry in entries(page, str(folder)):
            yield Address(f"s3://{folder.host}/{entry.key}", entry.size, entry.version, entry.modified)

    def _ask(self, address: Address, operation: str, headers: Mapping[str, str], **what: str) -> Response:
        """An answer; where it says that the bucket lies in another region, the one from there."""
        for _ in range(2):
            client = self._client(address)
            url = self._address(client, address, operation, what)
            response = self.web.send(self.web.prepared("GET", url, headers=dict(headers)))
            region = _region(response)
            if not region or region == client.meta.region_name:
                break
            self._regions[address.host] = region
        if response.status_code not in ANSWERS:
            raise self.web.refused(response)
        return response

    def _client(self, address: Address) -> Any:
        region = self._regions.get(address.host)
        with self._making, _botocore_errors(address, self.web):
            if region not in self._clients:
                self._clients[region] = _s3_client(self._session, region)
            return self._clients[region]

    def _address(self, client: Any, address: Address, operation: str, what: dict[str, str]) -> str:
        """A signed address; the same for some time, so that not every block of a file needs another."""
        moment = int(time.time() // RENEWED)
        if moment != self._moment:
            self._moment, self._signed = moment, {}
        key = (client.meta.region_name, operation, address.host, *sorted(what.items()))
        signed = self._signed.get(key)
        if signed is None:
            with _botocore_errors(address, self.web):
                values = {"Bucket": address.host, **what}
                signed = str(client.generate_presigned_url(operation, Params=values, ExpiresIn=SIGNED))
            self.web.give(signed)
            self._signed[key] = signed
        return signed


class GoogleStore(Store):
    """Google Cloud Storage, or the emulator that STORAGE_EMULATOR_HOST names."""

    def __init__(self) -> None:
        super().__init__()
        self._refreshing = threading.Lock()
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        self._root = (emulator if "://" in emulator else f"http://{emulator}").rstrip("/") if emulator else GOOGLE
        self.web.give(self._root)

    def get(self, address: Address, headers: Mapping[str, str]) -> Response:
        """An object."""
        return self._ask(address, f"/{quote(address.key, safe='')}?alt=media", headers)

    def names(self, folder: Address) -> Iterator[Address]:
        """Names below the prefix, as the bucket lists them."""
        token = ""
        for _ in range(PAGES):
            found, token = self._page(folder, token)
            yield from found
            if not token:
                return
        raise BadInputError(str(folder), "a listing without end", "one that ends", "Check the address.")

    def _page(self, folder: Address, token: str) -> tuple[list[Address], str]:
        """Names, and the token of the next page."""
        query = {"prefix": folder.key, "delimiter": "/", **({"pageToken": token} if token else {})}
        content = self._ask(folder, f"?{urlencode(query)}", {}).content
        try:
            page = json.loads(content)
            names = [_listed(folder, item) for item in page.get("items", ())]
            return names, str(page.get("nextPageToken", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found = f"no listing ({type(error).__name__})"
            raise BadInputError(str(folder), found, "a bucket", "Check the address.") from None

    def _ask(self, address: Address, what: str, headers: Mapping[str, str]) -> Response:
        url = f"{self._root}/storage/v1/b/{quote(address.host, safe='')}/o{what}"
        return self.web.fetch(url, headers={**headers, **self._token(address)}, accept=ANSWERS)

    def _token(self, address: Address) -> dict[str, str]:
        """The header by which Google knows who asks."""
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        try:
            with self._refreshing:
                if self._credentials is None:
                    return {}
                if not self._credentials.valid:
                    self._credentials.refresh(Request())
                    self.web.hide(self._credentials.token)
                return {"Authorization": f"Bearer {self._credentials.token}"}
        except GoogleAuthError as error:
            found = f"credentials cannot be used ({type(error).__name__}: {self.web.safe(error)})"
            advice = "Check them (gcloud auth application-default login)."
            raise WebError(str(address), found, "valid ones, or none for public data", advice) from None

    @cached_property
    def _credentials(self) -> Any:
        """Application default credentials; None where there are none, and none were named."""
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        if self._root != GOOGLE:
            return None
        try:
            return google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_only"])[0]
        except DefaultCredentialsError:
            if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
                raise
            return None


def _listed(folder: Address, item: Mapping[str, Any]) -> Address:
    """An object as Google lists it."""
    text, modified = f"gs://{folder.host}/{item['name']}", seconds_of(str(item.get("updated", "")))
    return Address(text, int(item["size"]), str(item["generation"]), modified)


STORES: dict[str, type[Store]] = dict(zip((*WEB, *BUCKETS), (WebStore, WebStore, S3Store, GoogleStore)))


def _store(address: Address) -> Store:
    made = STORES[address.scheme]
    return once(made, made)


@contextlib.contextmanager
def _named(address: Address) -> Iterator[None]:
    """What goes wrong is said of the address as the user wrote it, not of the one that was made of it."""
    try:
        yield
    except WebError as error:
        line = str(error).replace(error.where, str(address), 1)
        error.args, error.where = (line,), str(address)
        raise


def _region(response: Response) -> str | None:
    """The region that a refusal sends to, if any."""
    if response.status_code not in (301, 307, 400):
        return None
    named = re.search(r"<Region>([a-z0-9-]+)</Region>", response.text)
    return response.headers.get("x-amz-bucket-region") or (named[1] if named else None)


def _botocore_session() -> Any:
    try:
        import botocore.session
    except ImportError:
        advice = "Install it: .venv/bin/python -m pip install botocore."
        raise MissingInputError("s3://", "botocore is not installed", "it, which signs requests", advice) from None
    return botocore.session.get_session()


def _s3_client(session: Any, region: str | None) -> Any:
    """Botocore's client, which is only asked to make addresses."""
    from botocore import UNSIGNED
    from botocore.config import Config

    signed = "s3v4" if session.get_credentials() else UNSIGNED
    own = {"signature_version": signed, "response_checksum_validation": "when_required"}
    client = session.create_client("s3", region_name=region, config=Config(**own))
    if not (urlsplit(client.meta.endpoint_url).hostname or "").endswith(".amazonaws.com"):
        return client
    # Otherwise all regions share one host, which not every region can be reached by.
    return session.create_client("s3", region_name=region, config=Config(**own, s3={"addressing_style": "virtual"}))


@contextlib.contextmanager
def _botocore_errors(address: Address, web: Web) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except BotoCoreError as error:
        advice = "Check them (aws configure list)."
        raise WebError(str(address), f"not usable ({web.safe(error)})", "AWS settings that are", advice) from None
