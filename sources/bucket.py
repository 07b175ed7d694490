"""What lies in a public bucket: a listing by S3's own protocol, without credentials."""

import re
from collections.abc import Iterator
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from roofkit.errors import BadInputError
from sources.web import Web

PAGES = 1000  # of 1000 names


def keys(web: Web, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
    """The names in a bucket that start with `prefix`, in the order of the alphabet, each with its version (ETag).

    Args:
        web: How to reach it.
        bucket: The address of the bucket's root.
        prefix: What names start with.

    Raises:
        WebError: It is not reached, or refuses.
        BadInputError: It answers with something else than a listing.
    """
    token: str | None = None
    for _ in range(PAGES):
        query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
        page = _page(web, f"{bucket.rstrip('/')}/?{urlencode(query)}")
        for entry in page.iterfind("{*}Contents"):
            yield entry.findtext("{*}Key", ""), entry.findtext("{*}ETag", "")
        token = page.findtext("{*}NextContinuationToken")
        if not token:
            return
    raise BadInputError(web.safe(bucket), "a listing without end", "one that ends", "Check the address.")


def address_of(bucket: str, key: str) -> str:
    """The address of a name in a bucket."""
    return f"{bucket.rstrip('/')}/{quote(key)}"


def _page(web: Web, address: str) -> ElementTree.Element:
    data = bytes(web.fetch(address).content)
    try:
        if re.search(rb"<!(DOCTYPE|ENTITY)", data):  # a listing has none; they can make a parser grow without end
            raise ValueError("a document type")
        page = ElementTree.fromstring(data)
        if not page.tag.endswith("ListBucketResult"):
            raise ValueError(f"<{page.tag[:60]}>")
    except (ElementTree.ParseError, ValueError) as error:
        raise BadInputError(web.safe(address), f"no listing ({error})", "a bucket", "Check the address.") from None
    return page
