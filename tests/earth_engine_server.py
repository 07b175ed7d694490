"""An Earth Engine on 127.0.0.1: it speaks the protocol that the real client speaks, and serves one raster."""

import io
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ee
import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

FIXTURES = Path(ee.__file__).parent / "tests"
LIMIT = 50_331_648
VALID = "roof_classify_valid"  # what the program calls the band that it asks for
TOKEN = "planted-token-93f1c7"


class EarthEngineServer(ThreadingHTTPServer):
    """Serves `raster` (a path) as the one image there is.

    Args:
        raster: What every expression evaluates to; its bands are named by `names`.
        names: Of its bands.
        faults: What happens to the pixel requests, in their order; None: nothing.
        limit: Bytes of a request that are refused as too large.
        memory: Pixels of a request above which the user's memory limit is exceeded.
        slow: Seconds that each pixel request takes.
    """

    daemon_threads = True

    def __init__(
        self, raster, names, *, faults=(), limit=LIMIT, memory=10**9, slow=0.0, info=None, features=(), validity=True
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.raster, self.names, self.limit, self.memory, self.slow = raster, names, limit, memory, slow
        self.faults, self.info, self.features, self.validity = list(faults), info, list(features), validity
        self.lock = threading.Lock()
        self.requests, self.pixel_requests, self.now, self.most = [], [], 0, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def counted(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            yield
        finally:
            with self.lock:
                self.now -= 1

    def fault(self):
        with self.lock:
            return self.faults.pop(0) if self.faults else None

    def image(self):
        """What getInfo says of the image."""
        if self.info is not None:
            return self.info
        with rasterio.open(self.raster) as src:
            kinds = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767)}
            low, high = kinds.get(src.dtypes[0], (0, 0))
            kind = {"type": "PixelType", "precision": "int", "min": low, "max": high}
            kind = kind if src.dtypes[0] in kinds else {"type": "PixelType", "precision": "float"}
            transform = list(src.transform)[:6]
            return {
                "type": "Image",
                "id": "X",
                "bands": [
                    {"id": n, "data_type": kind, "dimensions": [src.width, src.height], "crs": str(src.crs),
                     "crs_transform": transform} for n in self.names
                ],
                "properties": {},
            }  # fmt: skip

    def pixels(self, body):
        """The answer to computePixels: nearest pixels, 0 where there are none, and the band of validity."""
        grid = body["grid"]
        t, size = grid["affineTransform"], grid["dimensions"]
        transform = Affine(t["scaleX"], t["shearX"], t["translateX"], t["shearY"], t["scaleY"], t["translateY"])
        with rasterio.open(self.raster) as src:
            options = dict(crs=grid["crsCode"], transform=transform, height=size["height"], width=size["width"])
            with WarpedVRT(src, resampling=Resampling.nearest, add_alpha=True, **options) as vrt:
                found = vrt.read()
        valid = (found[-1] > 0).astype(np.uint8)
        names = [*self.names, VALID] if self.validity else self.names
        kinds = [(name, found.dtype if name in self.names else np.uint8) for name in names]
        answer = np.zeros(found.shape[1:], kinds)
        for name in names:
            answer[name] = found[self.names.index(name)] * (valid > 0) if name in self.names else valid
        buffer = io.BytesIO()
        np.save(buffer, answer)
        return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path.startswith("/$discovery/rest"):
            text = (FIXTURES / "cloud_api_discovery_document.json").read_text().replace("v1alpha", "v1")
            document = json.loads(text)
            document |= {"rootUrl": self.server.url + "/", "baseUrl": self.server.url + "/"}
            self.answer(200, json.dumps(document).encode())
        elif re.fullmatch(r"/v1/projects/[\w-]+/algorithms(\?.*)?", self.path):
            self.answer(200, (FIXTURES / "algorithms.json").read_bytes())
        else:
            self.error(404, "no such thing", "NOT_FOUND")

    def do_POST(self):
        self.server.requests.append(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/token"):
            self.answer(200, json.dumps({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}).encode())
        elif "value:compute" in self.path:
            self.answer(200, json.dumps({"result": self.server.image()}).encode())
        elif "image:computePixels" in self.path:
            with self.server.counted():
                self.compute(json.loads(data))
        elif "table:computeFeatures" in self.path:
            self.answer(200, json.dumps({"type": "FeatureCollection", "features": self.server.features}).encode())
        else:
            self.error(404, "no such thing", "NOT_FOUND")

    def compute(self, body):
        server = self.server
        server.pixel_requests.append(body["grid"])
        time.sleep(server.slow)
        size = body["grid"]["dimensions"]
        pixels = size["width"] * size["height"]
        found = server.fault()
        if found is not None:
            self.fail(found, body)
        elif pixels * (len(server.names) + 1) * 3 > server.limit:
            self.error(400, f"Total request size ({pixels}) must be less than or equal to {server.limit} bytes.")
        elif pixels > server.memory:
            self.error(400, "User memory limit exceeded.")
        else:
            self.answer(200, server.pixels(body), "application/octet-stream")

    def fail(self, found, body):
        if found == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close_connection = True
            self.connection.close()
        elif found == "hang":
            time.sleep(3)
        elif found == "truncated":
            data = self.server.pixels(body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif found == "cut":  # a proxy that cuts an answer and corrects its length
            data = self.server.pixels(body)
            self.answer(200, data[: len(data) // 2])
        elif found == 429:
            self.error(429, "Too many requests.", "RESOURCE_EXHAUSTED", retry="0")
        else:
            token = self.headers.get("Authorization", "")
            self.error(found, f"Injected {found} for {token}.", "FAILED")

    def error(self, code, message, status="INVALID_ARGUMENT", retry=None):
        self.answer(
            code, json.dumps({"error": {"code": code, "message": message, "status": status}}).encode(), retry=retry
        )

    def answer(self, code, data, kind="application/json", retry=None):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if retry is not None:
            self.send_header("Retry-After", retry)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def earth_engine(raster, names, **options):
    """A running server."""
    server = EarthEngineServer(raster, names, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
