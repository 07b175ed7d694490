"""A file on a web server, read part by part: what GDAL reads a GeoTIFF through.

GDAL's own reader of addresses follows redirects wherever they lead, knows no deadline and waits for no retry of ours;
so it is handed this file instead. All requests go through `Web`.
"""

import io
import os
import re
import threading
from collections import OrderedDict

from roofkit.errors import BadInputError
from sources.web import Web, status

BLOCK = 512 * 1024  # bytes of a request
KEPT = 256  # blocks of all files together that stay in memory
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class BlockCache:
    """The blocks that were read last, of all files: many files are open at once, and memory is one."""

    def __init__(self) -> None:
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
            while len(self._blocks) > KEPT:
                self._blocks.popitem(last=False)


CACHE = BlockCache()


class RemoteBytes:
    """The bytes of one address; several threads may read them.

    Args:
        web: How to reach it.
        address: Where it is; without credentials it stands in errors.

    Raises:
        WebError: It is not reached, or refuses.
        BadInputError: It is empty.
    """

    def __init__(self, web: Web, address: str) -> None:
        self.web, self.address = web, address
        self.where = web.safe(address)
        self._key = object()  # of this file's blocks in the cache, which thus does not keep this object itself
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}
        self._whole: bytes | None = None
        self.size, self.version = -1, ""
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

    def _block(self, number: int) -> bytes:
        with self._lock:
            own = self._locks.setdefault(number, threading.Lock())
        with own:  # so that no block is fetched by two threads at once
            data = CACHE.get((self._key, number))
            if data is None:
                data = self._fetch(number * BLOCK)
                CACHE.put((self._key, number), data)
            return data

    def _fetch(self, start: int) -> bytes:
        if self._whole is not None:
            return self._whole[start : start + BLOCK]
        # identity: a compressed answer would have other offsets
        headers = {"Range": f"bytes={start}-{start + BLOCK - 1}", "Accept-Encoding": "identity"}
        response = self.web.fetch(self.address, headers=headers, accept=(200, 206, 416))
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

    def _same(self, size: int, headers: object) -> None:
        """Note size and version when first seen; raise where they are others now."""
        get = headers.get  # type: ignore[attr-defined]
        version = get("ETag") or get("Last-Modified") or ""
        with self._lock:
            if self.size < 0:
                self.size, self.version = size, version
                if not size:
                    raise BadInputError(self.where, "0 bytes", "a file", "Check the address.")
            elif (size, version) != (self.size, self.version):
                raise BadInputError(
                    self.where, "it changed while it was read", "one file", "Run again with --overwrite."
                )


class RangeFile(io.RawIOBase):
    """A position in `RemoteBytes`, with the methods of an open binary file.

    An error of the server would be lost inside GDAL: it is added to `problems`, and the file seems to end.
    """

    def __init__(self, data: RemoteBytes, problems: list[Exception]) -> None:
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
        except Exception as error:
            self.problems.append(error)
            return b""
        self._at += len(found)
        return found
