"""What lies in a bucket, as S3's protocol lists it, page by page."""

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from roofkit.errors import BadInputError

PAGES = 1000  # of 1000 names


@dataclass(frozen=True)
class Entry:
    """One name in a bucket."""

    key: str
    version: str
    """Its ETag."""
    size: int
    modified: int
    """Seconds since 1970; 0: not said."""


def entries(page_of: Callable[[str | None], bytes], where: str) -> Iterator[Entry]:
    """What is in a bucket, in the order of the alphabet.

    Args:
        page_of: The page that a token stands for; None: the first.
        where: The bucket, for errors.

    Raises:
        BadInputError: It answers with something else than a listing.
    """
    token: str | None = None
    for _ in range(PAGES):
        page = _parsed(page_of(token), where)
        coded = page.findtext("{*}EncodingType") == "url"
        for entry in page.iterfind("{*}Contents"):
            fields = ("Key", "ETag", "Size", "LastModified")
            key, tag, size, modified = (entry.findtext(f"{{*}}{name}", "") for name in fields)
            size_given = int(size) if size.isdecimal() else -1
            yield Entry(unquote_plus(key) if coded else key, tag, size_given, seconds_of(modified))
        token = page.findtext("{*}NextContinuationToken")
        if not token:
            return
    raise BadInputError(where, "a listing without end", "one that ends", "Check the address.")


def seconds_of(text: str) -> int:
    """Seconds since 1970 of a time as lists write it, `2026-01-31T12:00:00.000Z`; 0 where it is none."""
    with contextlib.suppress(ValueError):
        return int(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    return 0


def _parsed(data: bytes, where: str) -> ElementTree.Element:
    try:
        if re.search(rb"<!(DOCTYPE|ENTITY)", data):  # a listing has none; they can make a parser grow without end
            raise ValueError("a document type")
        page = ElementTree.fromstring(data)
        if not page.tag.endswith("ListBucketResult"):
            raise ValueError(f"<{page.tag[:60]}>")
    except (ElementTree.ParseError, ValueError) as error:
        raise BadInputError(where, f"no listing ({error})", "a bucket", "Check the address.") from None
    return page
