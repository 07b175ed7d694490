"""range_file: bytes of a web server by range; what the server does wrong is an error, never other bytes."""

import threading

import pytest
from web_server import web_server

import roofkit.range_file
from roofkit.errors import BadInputError
from roofkit.range_file import BlockCache, RangeFile, RemoteBytes, version_of
from roofkit.web import Web, WebError

DATA = bytes(range(251)) * 41  # 10291 bytes: no multiple of a block


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, only_this_machine):
    monkeypatch.setattr(roofkit.range_file, "BLOCK", 1000)
    monkeypatch.setattr(roofkit.range_file, "CACHE", BlockCache())


def remote(server, path="/x"):
    web = Web(retries=1, timeout=2.0)
    web.give(server.url)
    return RemoteBytes(web, server.url + path)


def answering(answer):
    """A server whose file is answered by `answer(handler, first, last, number of the request)`."""
    count = [0]

    def route(handler):
        count[0] += 1
        answer(handler, *handler.range(len(DATA)), count[0])

    return web_server(routes={"/x": route})


def ranged(handler, first, last, size=10291, tag="1"):
    headers = {"Content-Range": f"bytes {first}-{last}/{size}", "ETag": tag}
    handler.answer(206, DATA[first : last + 1], headers=headers)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_is_read_at_places(ranges):
    with web_server({"/x": DATA}, ranges=ranges) as server:
        file = RangeFile(remote(server), [])
        assert file.seek(0, 2) == len(DATA)
        for start, count in ((0, 10), (995, 10), (2500, 3000), (10285, 99), (10291, 5), (20000, 5), (0, 20000)):
            file.seek(start)
            assert file.read(count) == DATA[start : start + count]
            assert file.tell() == min(start + count, max(len(DATA), start))
        assert len(server.paths) == (11 if ranges else 1)
        assert file.readable()
        assert file.seekable()


def test_blocks_are_fetched_once_by_many_threads():
    with web_server({"/x": DATA}, slow=0.01) as server:
        data = remote(server)
        found = []
        threads = [threading.Thread(target=lambda: found.append(data.read(1500, 4000))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [DATA[1500:5500]] * 8
        assert len(server.paths) == 6


def test_memory_is_bounded_over_all_files(monkeypatch):
    monkeypatch.setattr(roofkit.range_file, "KEPT", 3)
    with web_server({"/x": DATA, "/y": DATA[::-1]}) as server:
        files = [remote(server, "/x"), remote(server, "/y")]
        for _ in range(2):
            assert [file.read(500, 3000) for file in files] == [DATA[500:3500], DATA[::-1][500:3500]]
        assert len(roofkit.range_file.CACHE._blocks) == 3


def test_a_server_that_forgets_about_ranges_half_way():
    def answer(handler, first, last, number):
        ranged(handler, first, last) if number < 3 else handler.answer(200, DATA, headers={"ETag": "1"})

    with answering(answer) as server:
        data = remote(server)
        assert data.read(1200, 300) == DATA[1200:1500]
        assert data.read(3500, 1000) == DATA[3500:4500]
        assert data.read(0, 20000) == DATA
        assert len(server.paths) == 3


@pytest.mark.parametrize("answer", [
    lambda handler, first, last, number: ranged(handler, first, last - 300),
    lambda handler, first, last, number: ranged(handler, first + 1, last),
    lambda handler, first, last, number: ranged(handler, first, last, size="*"),
    lambda handler, first, last, number: handler.answer(206, DATA[first : last + 1]),
    lambda handler, first, last, number: handler.answer(206, b"", headers={"Content-Range": "bytes 0-999/9999"}),
])  # fmt: skip
def test_another_part_than_asked_for_is_an_error(answer):
    with answering(answer) as server, pytest.raises(BadInputError, match="206 Partial Content with"):
        remote(server)


@pytest.mark.parametrize("other", [{"tag": "2"}, {"size": len(DATA) + 1}])
def test_a_file_that_changes_is_an_error(other):
    with answering(
        lambda handler, first, last, number: ranged(handler, first, last, **other if number > 2 else {})
    ) as s:
        data = remote(s)
        assert data.read(900, 200) == DATA[900:1100]
        with pytest.raises(BadInputError, match="it changed while it was read"):
            data.read(2000, 10)


@pytest.mark.parametrize("code", [200, 416])
def test_an_empty_file_is_an_error(code):
    empty = answering(lambda handler, *rest: handler.answer(code, b""))
    with empty as server, pytest.raises(BadInputError, match="0 bytes"):
        remote(server)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("gone")])
def test_what_gdal_would_swallow_is_noted(error, monkeypatch):
    def fail(*args):
        raise error

    with web_server({"/x": DATA}) as server:
        problems, data = [], remote(server)
        monkeypatch.setattr(data, "read", fail)
        assert RangeFile(data, problems).read(10) == b""
        assert problems == [error]


@pytest.mark.parametrize(("headers", "version"), [
    ({"x-goog-generation": "17", "ETag": '"a"'}, "17"),
    ({"ETag": '"a"', "Last-Modified": "Monday"}, '"a"'),
    ({"ETag": 'W/"a"', "Last-Modified": "Monday"}, "Monday"),
    ({"ETag": 'W/"a"'}, 'W/"a"'),
    ({}, ""),
])  # fmt: skip
def test_the_version_is_what_says_most_surely_that_bytes_are_the_same(headers, version):
    assert version_of(headers) == version


def test_an_error_is_noted_and_the_file_seems_to_end():
    with web_server({"/x": DATA}, faults=[None, 403]) as server:
        problems = []
        file = RangeFile(remote(server), problems)
        file.seek(3000)
        assert file.read(10) == b""
        assert isinstance(problems[0], WebError)
        file.seek(0)
        assert file.read(10) == b""  # not even what is known: GDAL must not go on
        assert len(server.paths) == 2
