"""Addresses of rasters: what they look like, what is shown of them, and that they are read only when allowed.

`https://host/name.tif`, `s3://bucket/name.tif` and `gs://bucket/name.tif` name a raster, `s3://bucket/folder/` and
`gs://bucket/folder/` those of a folder. Who holds an `Address` may read it: the command line makes them of what the
user typed, and refuses them unless `--allow-addresses` is given. `roofkit.remote` does the reading.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from roofkit.errors import BadInputError, MissingInputError
from roofkit.options import path_of

WEB, BUCKETS = ("https", "http"), ("s3", "gs")
SUFFIXES = (".tif", ".tiff")
START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
COLLAPSED = re.compile(rf"(?i)({'|'.join(WEB + BUCKETS)}):/(?!/)")  # what `Path` makes of one


@dataclass(frozen=True, repr=False)
class Address:
    """A raster, or a folder of them, on the network; it has those properties of a `Path` that stages ask for.

    As text it is without user name, password and query, so that it can be shown.

    Args:
        text: As the user wrote it.
        size: Bytes of the file; -1: not known yet.
        version: What changes when the file does; once it is known, only this version is read.
        modified: When it last changed, in seconds since 1970; 0: not known.
    """

    text: str
    size: int = -1
    version: str = ""
    modified: int = 0

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host.rpartition('@')[2]}{self._path}"

    __repr__ = __str__

    @property
    def scheme(self) -> str:
        """What comes before `://`, in small letters."""
        return self.text.partition("://")[0].lower()

    @property
    def host(self) -> str:
        """The host, or the bucket."""
        rest = self.text.partition("://")[2]
        return re.split(r"[/?#]" if self.scheme in WEB else "/", rest, maxsplit=1)[0]

    @property
    def key(self) -> str:
        """The name of an object in its bucket."""
        return self._path.removeprefix("/")

    @property
    def name(self) -> str:
        """The last part, as the name of a file."""
        last = self._path.rpartition("/")[2]
        return unquote(last).rpartition("/")[2] if self.scheme in WEB else last

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's suffix, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> str:
        """The folder that it lies in, as text."""
        return str(self).rpartition("/")[0]

    @property
    def is_raster(self) -> bool:
        """Whether its name is that of a GeoTIFF."""
        return self.suffix.lower() in SUFFIXES

    @property
    def is_pinned(self) -> bool:
        """Whether it stands for one version of a file."""
        return bool(self.version) and self.size > 0

    @property
    def _path(self) -> str:
        """What follows the host, without a query; in a bucket, `?` and `#` are letters like others."""
        rest = self.text.partition("://")[2][len(self.host) :]
        return re.split(r"[?#]", rest, maxsplit=1)[0] if self.scheme in WEB else rest


def is_address(where: str | Path) -> bool:
    """Whether that is an address, or a path that was made of one."""
    return bool((START if isinstance(where, str) else COLLAPSED).match(str(where)))


def path_or_address(text: str) -> Path | Address:
    """An argparse type: a path, or an address kept whole."""
    return Address(text) if is_address(text) else path_of(text)


def check_addresses(options: argparse.Namespace) -> None:
    """Raise unless every address on the command line may be one, and is allowed.

    Raises:
        MissingInputError: There is one without `--allow-addresses`.
        BadInputError: There is one where only a file can be, or of an unknown kind.
    """
    for value in vars(options).values():
        if isinstance(value, Path) and is_address(value):
            advice = "Use a file or folder of this machine; only SRC may be an address, in the stages that say so."
            raise BadInputError(str(value).replace(":/", "://", 1), "an address", "a file or folder", advice)
        if not isinstance(value, Address):
            continue
        if not getattr(options, "allow_addresses", False):
            advice = "Give --allow-addresses to read from the network."
            raise MissingInputError(str(value), "an address", "a file", advice)
        _check_form(value)


def _check_form(address: Address) -> None:
    if address.scheme not in WEB + BUCKETS:
        kinds = " or ".join(f"{scheme}://" for scheme in ("https", *BUCKETS))
        raise BadInputError(str(address), f"{address.scheme}://", kinds, "Copy it to one of those, or to this machine.")
    if not address.host or not (str(address) + address.name).isprintable():
        raise BadInputError(str(address), "not an address", f"{address.scheme}://…/name.tif", "Check it.")
