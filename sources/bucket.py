"""What lies in a public bucket: a listing by S3's own protocol, without credentials."""

from collections.abc import Iterator
from urllib.parse import quote, urlencode

from roofkit.listing import entries
from roofkit.web import Web


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

    def page(token: str | None) -> bytes:
        query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
        return bytes(web.fetch(f"{bucket.rstrip('/')}/?{urlencode(query)}").content)

    for entry in entries(page, web.safe(bucket)):
        yield entry.key, entry.version


def address_of(bucket: str, key: str) -> str:
    """The address of a name in a bucket."""
    return f"{bucket.rstrip('/')}/{quote(key)}"
