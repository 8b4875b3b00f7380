from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from polycontrast.data import cache_dir, fetch
from polycontrast.errors import DataError

CONTENT = b"date,x\n" + b"2024-01-01,1\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLYCONTRAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "source.csv").write_bytes(CONTENT)
    return (tmp_path / "source.csv").as_uri()


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def test_it_is_fetched_once(url: str, cache: Path, tmp_path: Path) -> None:
    path = fetch(url, SHA256.upper(), name="ett/a.csv")
    assert path == cache / "ett/a.csv"
    assert path.read_bytes() == CONTENT
    assert files(cache) == ["ett/a.csv"]
    (tmp_path / "source.csv").unlink()
    assert fetch(url, SHA256, name="ett/a.csv") == path


def test_the_cache_is_at_home_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYCONTRAST_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "polycontrast"


def test_a_wrong_checksum_leaves_nothing(url: str, cache: Path) -> None:
    with pytest.raises(DataError, match="checksum") as caught:
        fetch(url, "0" * 64, name="a.csv")
    assert "\n" not in str(caught.value)
    assert files(cache) == []


def test_a_damaged_copy_is_not_used_and_not_replaced(url: str, cache: Path) -> None:
    cache.mkdir()
    (cache / "a.csv").write_bytes(b"mine")
    with pytest.raises(DataError, match="delete it"):
        fetch(url, SHA256, name="a.csv")
    assert (cache / "a.csv").read_bytes() == b"mine"


def test_without_network_it_says_where_a_copy_may_be_put(cache: Path) -> None:
    # A port of this machine on which nobody listens.
    with pytest.raises(DataError, match="cannot be reached") as caught:
        fetch("http://127.0.0.1:9/a.csv", SHA256, name="a.csv")
    assert str(cache / "a.csv") in str(caught.value)
    assert files(cache) == []


def test_a_file_that_is_not_there(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="cannot be reached"):
        fetch((tmp_path / "none.csv").as_uri(), SHA256, name="a.csv")
    assert files(cache) == []


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:500])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_over_http(server: str, cache: Path) -> None:
    assert fetch(f"{server}/whole", SHA256, name="a.csv").read_bytes() == CONTENT
    with pytest.raises(DataError, match="404"):
        fetch(f"{server}/missing", SHA256, name="b.csv")
    with pytest.raises(DataError, match=r"cut on the way|broke off"):
        fetch(f"{server}/cut", SHA256, name="c.csv")
    assert files(cache) == ["a.csv"]


def test_an_interruption_leaves_nothing(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(url, SHA256, name="a.csv")
    assert files(cache) == []


def test_a_cache_that_cannot_be_written(url: str, cache: Path) -> None:
    cache.write_text("a file, not a folder")
    with pytest.raises(DataError, match="POLYCONTRAST_CACHE"):
        fetch(url, SHA256, name="a.csv")


def test_names_stay_inside_the_cache(url: str) -> None:
    with pytest.raises(ValueError, match="inside"):
        fetch(url, SHA256, name="../a.csv")
