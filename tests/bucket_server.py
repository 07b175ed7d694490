"""Buckets on 127.0.0.1 for tests: as S3 serves them, signatures checked, and as Google Cloud Storage does."""

import hashlib
import hmac
import json
from contextlib import contextmanager
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from web_server import Handler, WebServer, running

KEY_ID, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI-K7MDENG", "session-token-0123456789"
MODIFIED = "2026-01-31T12:00:00.000Z"
PAGE = 2  # names on a page of a list


class S3Handler(Handler):
    """Objects by range and ListObjectsV2; path-style addresses with signatures of version 4 in the query."""

    def serve(self, cut=False):
        server, parts = self.server, urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if server.region and f"/{server.region}/s3/" not in query.get("X-Amz-Credential", f"/{server.region}/s3/"):
            self.fault(400, "AuthorizationHeaderMalformed", "the region is wrong", f"<Region>{server.region}</Region>")
        elif server.private and not self.is_signed(parts, query):
            self.fault(403, "AccessDenied", "Access Denied", f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>")
        else:
            _, bucket, key = (unquote(parts.path) + "/").split("/", 2)
            self.bucket(bucket, key.removesuffix("/"), query, cut)

    def bucket(self, bucket, key, query, cut):
        if bucket != "imagery":
            self.fault(404, "NoSuchBucket", "The specified bucket does not exist")
        elif "list-type" in query:
            self.answer(200, self.listing(query), "application/xml")
        elif key not in self.server.files:
            self.fault(404, "NoSuchKey", "The specified key does not exist.")
        else:
            self.send_part(self.server.files[key], cut=cut)

    def fault(self, code, name, message, more=""):
        text = f"<?xml version='1.0'?><Error><Code>{name}</Code>{more}<Message>{message}</Message></Error>"
        self.answer(code, text.encode(), "application/xml")

    def listing(self, query):
        names, rest = page(self.server.files, query["prefix"], query.get("continuation-token"))
        found = "".join(
            f"<Contents><Key>{quote(name, safe='/')}</Key><LastModified>{MODIFIED}</LastModified>"
            f"<ETag>&quot;{self.server.version}&quot;</ETag><Size>{len(self.server.files[name])}</Size></Contents>"
            for name in names
        )
        more = f"<NextContinuationToken>{rest}</NextContinuationToken>" if rest else ""
        head = "<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><EncodingType>url</EncodingType>"
        return f"{head}{found}{more}</ListBucketResult>".encode()

    def is_signed(self, parts, query):
        """Whether the query holds the right signature (AWS's documentation, "query string authentication")."""
        given, known = query.pop("X-Amz-Signature", ""), "X-Amz-Credential" in query
        if not known or query.get("X-Amz-Security-Token") != TOKEN:
            return False
        day, region, service, end = query["X-Amz-Credential"].removeprefix(f"{KEY_ID}/").split("/")
        values = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
        request = f"GET\n{parts.path}\n{values}\nhost:{self.headers['Host']}\n\nhost\nUNSIGNED-PAYLOAD"
        scope = f"{day}/{region}/{service}/{end}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{digest}"
        key = f"AWS4{SECRET}".encode()
        for word in (day, region, service, end, text):
            key = hmac.new(key, word.encode(), hashlib.sha256).digest()
        return hmac.compare_digest(key.hex(), given)


class GoogleHandler(Handler):
    """Objects by range and lists, as the JSON API has them."""

    def serve(self, cut=False):
        parts, server = urlsplit(self.path), self.server
        query = dict(parse_qsl(parts.query))
        _, bucket, _, *name = parts.path.removeprefix("/storage/v1").split("/")[1:]
        if server.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b'{"error": {"code": 401, "message": "Anonymous caller"}}', "application/json")
        elif bucket != "imagery" or (name and unquote(name[0]) not in server.files):
            self.answer(404, b'{"error": {"code": 404, "message": "Not Found here"}}', "application/json")
        elif name and query.get("alt") == "media":
            extra = {"x-goog-generation": str(server.version)}
            self.send_part(server.files[unquote(name[0])], headers=extra, cut=cut)
        else:
            self.answer(200, json.dumps(self.listing(query)).encode(), "application/json")

    def listing(self, query):
        names, rest = page(self.server.files, query.get("prefix", ""), query.get("pageToken"))
        items = [
            {"name": name, "size": str(len(self.server.files[name])), "generation": str(self.server.version)}
            for name in names
        ]
        return {"items": items, **({"nextPageToken": rest} if rest else {})}


def page(files, prefix, token):
    """A page of the names below a prefix but in no folder below it, and the token of the next one."""
    below = sorted(name for name in files if name.startswith(prefix) and "/" not in name[len(prefix) :])
    start = int(token or 0)
    return below[start : start + PAGE], str(start + PAGE) if start + PAGE < len(below) else ""


@contextmanager
def bucket_server(handler, files=(), *, private=True, region=None, **options):
    """A running server of the bucket `imagery`; `files` are its objects by name."""
    server = WebServer(files, **options)
    server.RequestHandlerClass, server.private, server.region = handler, private, region
    with running(server):
        yield server
