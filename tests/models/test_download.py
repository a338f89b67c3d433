"""Downloads, against a server on this machine that serves, breaks off, corrupts, redirects and lies."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import threading
import urllib.request
from collections import deque
from pathlib import Path

import pytest
import torch

from mrl.console import Console
from mrl.errors import CheckpointError
from mrl.models import download, transfer
from mrl.models.download import fetch, resolve
from mrl.models.pretrained import load_released, save_released
from mrl.models.registry import REGISTRY, ReleasedCheckpoint

NAME = "redimnet2-b6-vb2+vox2_v0-ptn"
FILE = "/b6-vb2%2Bvox2_v0-ptn.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`; each entry of `server.faults` spoils one request, in their order."""

    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        fault = server.faults.popleft() if server.faults else ""
        if fault == "close":
            return
        if fault.startswith("status "):
            self.send_error(int(fault.split()[1]))
            return
        if fault.startswith("redirect "):
            self.send_response(302)
            self.send_header("Location", fault.split()[1])
            self.end_headers()
            return
        if fault == "html":
            self._answer(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})
            return
        if fault == "disguised html":
            self._answer(200, b"\n<!doctype html>log in", {"ETag": '"page"'})
            return
        self._serve(fault)

    def _serve(self, fault: str) -> None:
        content, headers = self.server.content, {}
        if self.server.etag:
            headers["ETag"] = self.server.etag
        wanted, status = self.headers.get("Range"), 200
        if wanted and (self.headers.get("If-Range") == self.server.etag or fault == "ignores If-Range"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        sent = len(content) // 2 if fault == "cut" else len(content)
        if fault == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._answer(status, content[:sent], headers, None if fault == "no length" else len(content))

    def _answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = -1) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """A server whose content and faults the test sets."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = content, '"one"'
        self.faults: deque[str] = deque()
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def content(released, tiny_config, tmp_path) -> bytes:
    """The bytes of a real checkpoint."""
    path = tmp_path / "source" / "model.pt"
    save_released(released, tiny_config, path)
    return path.read_bytes()


@pytest.fixture
def server(content, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def get(server, home, waits, said):
    """Fetch from the server into `home`; keyword arguments replace facts of the checkpoint."""

    def run(**facts: object) -> Path:
        given = REGISTRY[NAME]
        checkpoint = ReleasedCheckpoint(**{**given.__dict__, **facts})
        reporter = Console(stream=said)
        return fetch(checkpoint, directory=home, base_url=server.url, reporter=reporter, sleep=waits.append)

    return run


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_file_is_downloaded_recorded_and_not_downloaded_again(get, server, home, content, waits):
    path = get()
    assert path == home / f"{NAME}.pt"
    assert path.read_bytes() == content
    record = json.loads(Path(f"{path}.json").read_text())
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert (record["size"], record["url"]) == (len(content), server.url + FILE)
    assert files_in(home) == {path.name, f"{path.name}.json"}
    assert get() == path
    assert server.requests == [(FILE, None)]
    assert waits == []


def test_what_is_downloaded_is_the_model(get, released):
    torch.testing.assert_close(load_released(get()).state_dict(), released.state_dict(), rtol=0, atol=0)


def test_a_download_that_breaks_off_goes_on_where_it_stopped(get, server, content, waits, said):
    server.faults.extend(["cut", "cut"])
    assert get().read_bytes() == content
    half = len(content) // 2
    three_quarters = half + (len(content) - half) // 2
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={half}-", f"bytes={three_quarters}-"]
    assert waits == [1, 2]
    assert f"the connection broke off after {half} of {len(content)} bytes; trying again" in said.getvalue()


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(get, server, home, content, waits):
    server.faults.extend(["cut"] * transfer.ATTEMPTS)
    with pytest.raises(CheckpointError, match=r"broke off after .* gave up after 5 attempts.* run it again"):
        get()
    assert waits == [1, 2, 4, 8]
    held = (home / f"{NAME}.pt.part").stat().st_size
    assert 0 < held < len(content)
    assert get().read_bytes() == content
    assert server.requests[-1] == (FILE, f"bytes={held}-")
    assert files_in(home) == {f"{NAME}.pt", f"{NAME}.pt.json"}


def test_parts_of_two_contents_are_never_joined(get, server, content):
    server.faults.extend(["cut", "close"] + ["close"] * 3)
    with pytest.raises(CheckpointError):
        get()
    server.content, server.etag = bytes(reversed(content)), '"two"'
    assert get().read_bytes() == server.content


def test_a_server_that_ignores_the_condition_is_found_out(get, server, content):
    server.faults.append("cut")
    server.faults.extend(["close"] * 4)
    with pytest.raises(CheckpointError):
        get()
    server.content, server.etag = bytes(reversed(content)), '"two"'
    server.faults.append("ignores If-Range")
    assert get().read_bytes() == server.content


def test_without_a_validator_a_broken_download_starts_again(get, server, content):
    server.etag = ""
    server.faults.append("cut")
    assert get().read_bytes() == content
    assert [wanted for _, wanted in server.requests] == [None, None]


def test_a_complete_part_is_not_asked_for_again(get, server, home, content, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download, "_measured", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            get()
    assert get().read_bytes() == content
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["status 500", "status 503", "status 429", "close"])
def test_a_passing_failure_is_tried_again(get, server, content, waits, fault):
    server.faults.append(fault)
    assert get().read_bytes() == content
    assert waits == [1]


def test_a_silent_server_is_tried_again(get, server, content, waits, monkeypatch):
    calls = []
    opened = transfer._OPENER.open

    def slow_once(*arguments, **options):
        calls.append(options["timeout"])
        if len(calls) == 1:
            raise TimeoutError("timed out")
        return opened(*arguments, **options)

    monkeypatch.setattr(transfer._OPENER, "open", slow_once)
    assert get().read_bytes() == content
    assert waits == [1]
    assert calls[0] == transfer.TIMEOUT_SECONDS


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("status 404", r"no such file on the server \(404\).*by hand"),
        ("status 403", "answered 403"),
        ("html", "a web page came instead of a checkpoint"),
        ("disguised html", "a web page came instead of a checkpoint"),
        ("no length", "without saying how long the file is"),
        ("redirect file:///etc/hostname", "redirected .* away from the web"),
        ("redirect ftp://127.0.0.1/x", "refused to follow its redirect to ftp:"),
    ],
)
def test_what_would_fail_again_is_one_clear_line(get, server, home, waits, fault, message):
    server.faults.append(fault)
    with pytest.raises(CheckpointError, match=message) as raised:
        get()
    assert "\n" not in str(raised.value)
    assert waits == []
    assert files_in(home) == set()


def test_a_redirect_is_followed_with_the_range(get, server, content):
    elsewhere = f"redirect {server.url}/elsewhere"
    server.faults.extend([elsewhere, "cut", elsewhere])
    assert get().read_bytes() == content
    half = f"bytes={len(content) // 2}-"
    assert server.requests == [(FILE, None), ("/elsewhere", None), (FILE, half), ("/elsewhere", half)]


@pytest.mark.parametrize("place", ["circle", "chain {}"])
def test_redirects_without_end_are_left(get, server, waits, place):
    places = [place.format(number).replace(" ", "/") for number in range(20)]
    server.faults.extend(f"redirect {server.url}/{target}" for target in places)
    with pytest.raises(CheckpointError, match="redirected too often, in a circle"):
        get()
    assert len(server.requests) <= transfer.MAX_REDIRECTS + 1
    assert waits == []


def test_no_redirect_from_https_to_http():
    request = urllib.request.Request("https://example.org/model.pt")
    with pytest.raises(CheckpointError, match="refused to follow"):
        transfer._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://example.org/x")


def test_offline_is_said_at_once(home, waits, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    closed = Server(b"")
    url = closed.url
    closed.server_close()
    with pytest.raises(CheckpointError, match=r"no connection \(.*refused.*check the network"):
        fetch(
            REGISTRY[NAME],
            directory=home,
            base_url=url,
            reporter=Console(stream=io.StringIO()),
            sleep=waits.append,
        )
    assert waits == []


def test_a_full_disk_is_said_and_what_came_is_kept(get, home, content, server, monkeypatch):
    write_all = transfer._write_all

    def half_then_full(file, chunk):
        write_all(file, chunk[: len(chunk) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_write_all", half_then_full)
        with pytest.raises(CheckpointError, match=r"cannot be written: No space left.*MRL_HOME"):
            get()
    assert (home / f"{NAME}.pt.part").stat().st_size > 0
    assert get().read_bytes() == content
    assert server.requests[-1][1] is not None


def test_a_folder_that_cannot_be_made_is_said(get, home):
    home.write_text("a file")
    with pytest.raises(CheckpointError, match="set MRL_HOME"):
        get()


def test_a_known_digest_is_required(get, server, home, content):
    digest = hashlib.sha256(content).hexdigest()
    server.faults.append("corrupt")
    with pytest.raises(CheckpointError, match=f"not {digest}: it was damaged on its way"):
        get(sha256=digest)
    assert files_in(home) == set()
    assert get(sha256=digest).read_bytes() == content


def test_a_known_size_is_required_before_anything_is_fetched(get, home, content):
    with pytest.raises(CheckpointError, match=f"{len(content)} bytes, not 5: it was damaged"):
        get(size_bytes=5)
    assert files_in(home) == set()


@pytest.mark.parametrize("change", ["bytes", "size"])
def test_a_file_that_changed_on_the_server_is_noticed(get, server, content, change):
    path = get()
    path.unlink()
    server.content = bytes(reversed(content)) if change == "bytes" else content + b"more"
    with pytest.raises(CheckpointError, match=r"on the server has changed .* delete .*\.pt\.json"):
        get()
    assert not path.exists()
    Path(f"{path}.json").unlink()
    assert get().read_bytes() == server.content


def test_a_file_that_changed_here_is_noticed(get, server):
    path = get()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"changed since it was downloaded on .* delete it to download"):
        get()
    path.unlink()
    assert get().read_bytes() == server.content


def test_a_file_put_there_by_hand_is_checked_and_recorded(get, server, home, content):
    home.mkdir()
    path = home / f"{NAME}.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the released file"):
        get(sha256="0" * 64)
    assert get() == path
    assert json.loads(Path(f"{path}.json").read_text())["size"] == len(content)
    assert server.requests == []


def test_a_read_only_folder_serves_what_it_holds(get, home, content, monkeypatch):
    home.mkdir()
    (home / f"{NAME}.pt").write_bytes(content)

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(download, "write_text_atomically", refused)
    monkeypatch.setattr(download, "_alone", refused)
    assert get() == home / f"{NAME}.pt"


def test_a_damaged_record_is_named(get):
    path = get()
    Path(f"{path}.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"\.pt\.json: not a record of a download; delete it"):
        get()


def test_processes_that_ask_at_once_share_one_download(get, server, content):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert found[0].read_bytes() == content
    assert len(server.requests) == 1


def test_resolve_takes_paths_and_names(tmp_path, monkeypatch):
    path = tmp_path / "mine.pt"
    path.write_bytes(b"x")
    reporter = Console(stream=io.StringIO())
    assert resolve(str(path), reporter) == path
    asked = []
    monkeypatch.setattr(download, "fetch", lambda checkpoint, reporter: asked.append(checkpoint.name) or path)
    assert resolve(NAME, reporter) == path
    assert asked == [NAME]


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [
        ("nowhere/model", "nowhere/model: no such file"),
        ("model.pt", r"model\.pt: no such file"),
        (".", "a folder, not a checkpoint"),
        ("redimnet-b9-vox2-ft_lm", "the nearest: redimnet-b"),
    ],
)
def test_resolve_says_what_is_wrong(pretrained, message):
    with pytest.raises(CheckpointError, match=message):
        resolve(pretrained, Console(stream=io.StringIO()))


def test_the_folder_is_that_of_the_environment_or_torchs(monkeypatch, tmp_path):
    monkeypatch.setenv("MRL_HOME", str(tmp_path))
    assert download.checkpoint_folder() == tmp_path
    monkeypatch.delenv("MRL_HOME")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert download.checkpoint_folder() == tmp_path / "hub" / "checkpoints" / "redimnet-mrl"
