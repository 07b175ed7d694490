"""A file on a web server, read part by part: what GDAL reads a GeoTIFF through.

GDAL's own reader of addresses follows redirects wherever they lead, knows no deadline and waits for no retry of ours;
so it is handed this file instead. All requests go through `Web`.
"""

import contextlib
import io
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import rasterio
from rasterio.io import DatasetReader

from roofkit.errors import BadInputError
from roofkit.web import Web, status

if TYPE_CHECKING:
    from requests import Response

BLOCK = 512 * 1024  # bytes of a request
KEPT = 256  # blocks of all files together that stay in memory
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
WEAK = "W/"  # how a weak ETag begins
ANSWERS = (200, 206, 416)  # statuses of a request for a range: all, that part, and nothing there


class BlockCache:
    """The blocks that were read last, of all files: many files are open at once, and memory is one.

    Args:
        kept: How many; None: `KEPT`.
    """

    def __init__(self, kept: int | None = None) -> None:
        self._kept = kept
        self._blocks: OrderedDict[tuple[object, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, int]) -> bytes | None:
        """A block, if it is still there."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def put(self, key: tuple[object, int], data: bytes) -> None:
        """Keep a block, and forget those that were not asked for the longest."""
        with self._lock:
            self._blocks[key] = data
            while len(self._blocks) > (self._kept or KEPT):
                self._blocks.popitem(last=False)


CACHE = BlockCache()


class RemoteBytes:
    """The bytes of one address; several threads may read them.

    Args:
        web: How to reach it.
        address: Where it is.
        where: What errors call it; None: the address without credentials.
        size: Bytes that it has to have; -1: any.
        version: The version that it has to have, where a size is given.

    Raises:
        WebError: It is not reached, or refuses.
        BadInputError: It is empty.
    """

    def __init__(self, web: Web, address: str, *, where: str | None = None, size: int = -1, version: str = "") -> None:
        self.web, self.address = web, address
        self.where = where or web.safe(address)
        self._key = object()
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}
        self._whole: bytes | None = None
        self.size, self.version, self.modified = size, version, 0
        if size < 0:
            self._block(0)

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from `start`, fewer at the end of the file."""
        end = min(start + count, self.size)
        if start >= end:
            return b""
        if self._whole is not None:
            return self._whole[start:end]
        first, last = start // BLOCK, (end - 1) // BLOCK
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[start - first * BLOCK : end - first * BLOCK]

    @property
    def _blocks(self) -> tuple[BlockCache, object]:
        """Where this file's blocks are kept, and as whose; not as this object's, which the cache would then keep."""
        return CACHE, self._key

    def _ask(self, headers: Mapping[str, str]) -> "Response":
        """The answer to a request for a range, with one of the statuses in `ANSWERS`."""
        return self.web.fetch(self.address, headers=headers, accept=ANSWERS)

    def _block(self, number: int) -> bytes:
        with self._lock:
            own = self._locks.setdefault(number, threading.Lock())
        with own:  # so that no block is fetched by two threads at once
            cache, key = self._blocks
            data = cache.get((key, number))
            if data is None:
                data = self._fetch(number * BLOCK)
                cache, key = self._blocks
                cache.put((key, number), data)
            return data

    def _fetch(self, start: int) -> bytes:
        if self._whole is not None:
            return self._whole[start : start + BLOCK]
        # identity: a compressed answer would have other offsets
        headers = {"Range": f"bytes={start}-{start + BLOCK - 1}", "Accept-Encoding": "identity"}
        response = self._ask(headers)
        data, found = bytes(response.content), RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code == 416:
            raise BadInputError(self.where, "0 bytes", "a file", "Check the address.")
        if response.status_code == 200:
            self._same(len(data), response.headers)
            self._whole = data
            return data[start : start + BLOCK]
        last = min(start + BLOCK, int(found[3])) - 1 if found else -1
        if not found or (int(found[1]), int(found[2]), len(data)) != (start, last, last - start + 1):
            what = response.headers.get("Content-Range", "no range")
            wanted = f"bytes from {start} to {start + BLOCK - 1} or the end"
            raise BadInputError(self.where, f"{status(response)} with {what}", wanted, "Ask its owner.")
        self._same(int(found[3]), response.headers)
        return data

    def _same(self, size: int, headers: Mapping[str, str]) -> None:
        """Note size and version when first seen; raise where they are others now."""
        version = version_of(headers)
        with self._lock:
            if self.size < 0:
                self.size, self.version, self.modified = size, version, _modified(headers)
                if not size:
                    raise BadInputError(self.where, "0 bytes", "a file", "Check the address.")
            elif (size, version) != (self.size, self.version):
                raise BadInputError(
                    self.where, "it changed while it was read", "one file", "Run again with --overwrite."
                )


def version_of(headers: Mapping[str, str]) -> str:
    """What changes when the file does: Google's number, a strong ETag, the time of the last change; "": nothing.

    A weak ETag comes last: other bytes may bear the same one (RFC 9110, 8.8.1).
    """
    tag = headers.get("ETag", "")
    strong = "" if tag.startswith(WEAK) else tag
    return headers.get("x-goog-generation") or strong or headers.get("Last-Modified") or tag


def _modified(headers: Mapping[str, str]) -> int:
    """When the file last changed, in seconds since 1970; 0 where the server does not say."""
    with contextlib.suppress(ValueError, TypeError):
        return int(parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp())
    return 0


class RangeFile(io.RawIOBase):
    """A position in `RemoteBytes`, with the methods of an open binary file.

    An error of the server would be lost inside GDAL: it is added to `problems`, and the file seems to end.
    """

    def __init__(self, data: RemoteBytes, problems: list[BaseException]) -> None:
        super().__init__()
        self.data, self._at, self.problems = data, 0, problems

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.data.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """That many bytes from here, or all."""
        count = self.data.size if size is None or size < 0 else size
        if self.problems:
            return b""
        try:
            found = self.data.read(self._at, count)
        except BaseException as error:  # also the end of the program, which GDAL would swallow as well
            self.problems.append(error)
            return b""
        self._at += len(found)
        return found


def open_bytes(data: RemoteBytes, problems: list[BaseException]) -> DatasetReader:
    """The open GeoTIFF that remote bytes are; GDAL sees no other file, and opens it as nothing else.

    Args:
        data: The bytes.
        problems: Errors of the server are added here: GDAL only knows that bytes are missing.
    """
    name = "remote/scene.tif"

    def opener(path: str, mode: str = "rb") -> RangeFile:
        if path != name:
            raise FileNotFoundError(path)
        return RangeFile(data, problems)

    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        src = rasterio.open(name, driver="GTiff", opener=opener)
    src.where, src.problems = data.where, problems  # for who is only handed the open file
    return src
