"""The one door to the network: which addresses may be contacted, proxies, certificates, limits."""

import datetime
import ipaddress
import ssl
import threading
import time

import pytest
import requests
from web_server import web_server

import roofkit.web
from roofkit.web import Web, WebError, pause_before

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def web():
    return Web(retries=2, timeout=0.5, deadline=5.0)


@pytest.mark.parametrize(
    "address",
    [
        "http://10.0.0.1/", "http://192.168.1.1/", "http://127.0.0.1:1/", "http://localhost/", "http://[::1]/",
        "http://169.254.169.254/latest", "http://[::ffff:10.0.0.1]/", "http://100.64.0.1/", "http://0.0.0.0/",
        "http://224.0.0.1/",
    ],
)  # fmt: skip
def test_private_networks_are_refused_unless_given(address, web):
    with pytest.raises(WebError, match="private network"):
        web.check(address)
    web.give(address)
    web.check(address)


def test_a_given_host_is_given_at_its_port_only(web):
    web.give("http://127.0.0.1:8000/a")
    web.check("http://127.0.0.1:8000/b")
    with pytest.raises(WebError, match="a redirect to a private network"):
        web.check("http://127.0.0.1:8001/b", redirected=True)
    web.give_near("http://127.0.0.1:8000/")
    web.check("http://127.0.0.1:8001/b")
    with pytest.raises(WebError, match="a redirect to"):
        web.check("http://127.0.0.1:8001/b", redirected=True)


@pytest.mark.parametrize("address", ["ftp://host/", "file:///etc/passwd", "http://", "gopher://10.0.0.1/"])
def test_only_http(address, web):
    with pytest.raises(WebError, match=r"no http or https address|not an address"):
        web.check(address)


def test_nothing_secret_is_shown(web):
    web.hide("s3cret-part", None, "ab")
    text = web.safe("GET https://user:pass@host.org/s3cret-part/x?key=abc#f failed: Bearer abc.def, 'http://h/p?q=1'")
    assert text == "GET https://host.org/***/x failed: Bearer ***, 'http://h/p'"
    assert len(web.safe("x" * 9999)) == 401


@pytest.mark.parametrize(("body", "shown"), [
    (b"<Error><Code>X</Code><AWSAccessKeyId>AKID</AWSAccessKeyId><Message>No entry.</Message></Error>", "(No entry.)"),
    (b'{"error": {"code": 403, "message": "No \\"entry\\"."}}', '(No \\"entry\\".)'),
    (b"plainly no", "(plainly no)"),
    (b"", "403 Forbidden;"),
])  # fmt: skip
def test_of_a_refusal_its_reason_is_shown(body, shown, web):
    with web_server(routes={"/a": lambda handler: handler.answer(403, body)}) as server:
        web.give(server.url)
        with pytest.raises(WebError) as caught:
            web.fetch(f"{server.url}/a")
    assert shown in str(caught.value)
    assert "AKID" not in str(caught.value)


def test_pauses_grow_or_are_what_the_server_asks():
    assert [pause_before(n, None) for n in range(4)] == [0.01, 0.02, 0.04, 0.08]
    response = requests.Response()
    response.headers["Retry-After"] = "7"
    assert pause_before(0, response) == 7.0
    response.headers["Retry-After"] = "86400"
    assert pause_before(0, response) == roofkit.web.LONGEST_PAUSE
    response.headers["Retry-After"] = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert pause_before(0, response) == 0.0
    response.headers["Retry-After"] = "soon"
    assert pause_before(1, response) == 0.02


def test_an_answer_without_end_is_cut_off(web, monkeypatch):
    monkeypatch.setattr(roofkit.web, "LIMIT", 1000)
    with web_server({"/a": b"x" * 5000}) as server:
        web.give(server.url)
        with pytest.raises(WebError, match="without end"):
            web.fetch(f"{server.url}/a")


def test_a_server_that_drips_ends_at_the_deadline(monkeypatch):
    web = Web(retries=0, timeout=5.0, deadline=0.3)

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(10 << 20))
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b"x" * (1 << 18))
            time.sleep(0.1)
        handler.close_connection = True

    with web_server(routes={"/a": drip}) as server:
        web.give(server.url)
        with pytest.raises(WebError, match="no answer after 1 tries"):
            web.fetch(f"{server.url}/a")


def test_a_server_that_drips_bytes_ends_at_the_deadline():
    web = Web(retries=0, timeout=5.0, deadline=0.3)

    def drip(handler):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b"x")
            time.sleep(0.1)

    with web_server(routes={"/a": drip}) as server:
        server.handle_error = lambda *_: None  # the client hangs up
        web.give(server.url)
        started = time.monotonic()
        with pytest.raises(WebError, match="no answer after 1 tries"):
            web.fetch(f"{server.url}/a")
        assert time.monotonic() - started < 1.5


def test_redirects_of_a_post_and_without_end(web):
    with web_server() as server:
        web.give(server.url)
        server.faults = [f"{server.url}/b"] * 9
        with pytest.raises(WebError, match="redirected"):
            web.fetch(f"{server.url}/a")
        server.faults = [f"{server.url}/b"]
        with pytest.raises(WebError, match="redirected"):
            web.post(f"{server.url}/a", data="x")


def test_credentials_do_not_follow_a_redirect_to_another_host(web):
    seen = []

    def show(handler):
        seen.append(handler.headers.get("Authorization"))
        handler.answer(200, b"ok")

    with web_server(routes={"/b": show}) as other, web_server() as server:
        web.give(server.url, other.url)
        server.faults = [other.url.replace("127.0.0.1", "localhost") + "/b"]
        web.give(other.url.replace("127.0.0.1", "localhost"))
        web.fetch(f"{server.url}/a", headers={"Authorization": "Bearer abc"})
    assert seen == [None]


def test_a_proxy_of_the_environment_is_used(web, monkeypatch):
    with web_server({"/scene.tif": b"pixels"}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert web.fetch("http://imagery.example/scene.tif").content == b"pixels"
        assert proxy.paths == ["http://imagery.example/scene.tif"]
        with pytest.raises(WebError, match="private network"):
            web.fetch("http://10.0.0.1/scene.tif")


@pytest.fixture
def certificate(tmp_path):
    """Key and certificate of 127.0.0.1, signed by nobody else."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime(2020, 1, 1)
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(today).not_valid_after(today + datetime.timedelta(36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "cert.pem").write_bytes(built.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", None])
def test_certificates_of_the_environment_are_used(variable, certificate, web, monkeypatch):
    from web_server import WebServer

    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    server = WebServer({"/a": b"hello"})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = server.url.replace("http:", "https:") + "/a"
    web.give(address)
    try:
        if variable:
            monkeypatch.setenv(variable, str(certificate[0]))
            assert web.fetch(address).content == b"hello"
        else:
            with pytest.raises(WebError, match="certificate is not trusted"):
                web.fetch(address)
    finally:
        server.shutdown()
        server.server_close()


def test_a_key_in_an_address_is_not_in_an_error(web):
    address = "http://127.0.0.1:9/x.tif?key=planted-secret-123"
    web.give(address)
    with pytest.raises(WebError) as caught:
        web.fetch(address)
    assert "planted-secret-123" not in str(caught.value)
    with web_server() as server:
        server.routes["/x"] = lambda handler: handler.answer(403, b"no planted-secret-123 for " + handler.path.encode())
        web.give(f"{server.url}/x?key=planted-secret-123")
        with pytest.raises(WebError) as caught:
            web.fetch(f"{server.url}/x?key=planted-secret-123")
    assert "planted-secret-123" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://h:abc/x", "http://[bad/x", "http://127.0.0.1:999999/x", "http:///x"])
def test_what_is_no_address_is_one_error(address, web):
    for use in (web.give, web.give_near, web.check, web.fetch):
        with pytest.raises(WebError, match="not an address"):
            use(address)


@pytest.mark.parametrize("target", ["http://[bad/", "http://h:abc/"])
def test_a_redirect_to_nowhere(target, web):
    with web_server(faults=[target]) as server:
        web.give(server.url)
        with pytest.raises(WebError, match="address"):
            web.fetch(f"{server.url}/a")


def test_cookies_do_not_follow_a_redirect_to_another_host(web):
    seen = []

    def first(handler):
        target = other.url.replace("127.0.0.1", "localhost") + "/b"
        handler.answer(302 if seen == ["set"] else 200, b"", headers={"Set-Cookie": "sid=1", "Location": target})
        seen.append("set" if not seen else "")

    def last(handler):
        seen.append(handler.headers.get("Cookie"))
        handler.answer(200, b"")

    with web_server(routes={"/b": last}) as other, web_server(routes={"/a": first}) as server:
        web.give(server.url, other.url.replace("127.0.0.1", "localhost"))
        web.fetch(f"{server.url}/a")
        web.fetch(f"{server.url}/a")
    assert seen[-1] is None


def test_the_body_of_a_redirect_is_bounded_too():
    web = Web(retries=0, timeout=5.0, deadline=0.3)

    def drip(handler):
        handler.send_response(302)
        handler.send_header("Location", "/b")
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b"x")
            time.sleep(0.1)
        handler.close_connection = True

    with web_server({"/b": b"there"}, routes={"/a": drip}) as server:
        web.give(server.url)
        with pytest.raises(WebError, match="no answer after 1 tries"):
            web.fetch(f"{server.url}/a")


def test_a_connection_that_breaks_off_in_its_greeting_is_tried_again(web):
    import socket

    tries = []
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            tries.append(connection.recv(100))
            connection.close()

    threading.Thread(target=hang_up, daemon=True).start()
    address = f"https://127.0.0.1:{listener.getsockname()[1]}/"
    web.give(address)
    with pytest.raises(WebError, match="not reached after 3 tries"):
        web.fetch(address)
    listener.close()
    assert len(tries) == 3
