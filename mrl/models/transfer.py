"""One URL into one file over HTTP: resumed where it broke off, tried again where that may help.

What has come is kept in the file, with a note beside it of which content it is a part of (the server's ETag or
date, and the size). A later attempt asks for the rest under that condition, so that parts of two different
contents are never joined.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mrl.atomic import write_text_atomically
from mrl.console import Console
from mrl.errors import CheckpointError
from mrl.line_file import reason

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0  # doubled after each attempt
TIMEOUT_SECONDS = 30.0  # without a byte
MAX_REDIRECTS = 5
CHUNK_BYTES = 256 * 1024

BY_HAND = "or download the file by hand and give its path as the name"


@dataclass(frozen=True)
class Content:
    """What a server offered: enough to tell whether it still offers the same."""

    url: str
    validator: str  # strong ETag, or Last-Modified; empty where the server gives neither
    size: int  # bytes


class _Interrupted(Exception):
    """A failure that another attempt may not meet."""


def transfer(
    url: str,
    part: Path,
    *,
    description: str,
    reporter: Console,
    expect: Callable[[int], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make ``part`` the whole content of ``url``, going on from what it holds already.

    ``expect`` is called with the content's size in bytes before any of it is fetched and may raise. Raises
    CheckpointError: no such file, no connection, a web page, a full disk, or interrupted too often.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _attempt(url, part, description, reporter, expect)
            return
        except _Interrupted as error:
            if attempt == ATTEMPTS:
                raise CheckpointError(
                    f"{url}: {error}; gave up after {ATTEMPTS} attempts. What came is kept: run it again to go "
                    f"on from there, {BY_HAND}"
                ) from error
            wait = FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
            reporter.say(f"{description}: {error}; trying again in {wait:.0f} s")
            sleep(wait)


def note_of(part: Path) -> Path:
    """The file that says which content ``part`` is a part of."""
    return part.with_name(f"{part.name}.json")


def discard(part: Path) -> None:
    """Forget what has come so far."""
    part.unlink(missing_ok=True)
    note_of(part).unlink(missing_ok=True)


def _attempt(
    url: str, part: Path, description: str, reporter: Console, expect: Callable[[int], None]
) -> None:
    held, offset = _held(url, part)
    if held is not None and offset == held.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "redimnet-mrl"})
    if held is not None:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", held.validator)
    with _plainly(url, part), _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
        _refuse_web_page(url, response)
        if response.status == 206 and held is not None:
            _require_continuation(response, held, offset, part)
            content = held
        else:
            content, offset = _whole_content(url, response), 0
            expect(content.size)
        with reporter.progress(f"{description}, kB", content.size // 1000, offset // 1000) as bar:
            _receive(response, part, content, offset, bar.advance)


def _receive(
    response: http.client.HTTPResponse,
    part: Path,
    content: Content,
    offset: int,
    advance: Callable[[int], None],
) -> None:
    """Append the body of ``response`` to the first ``offset`` bytes of ``part``."""
    done = offset
    with _writing(part):
        if not offset:
            discard(part)
            _write_note(part, content)
        # Unbuffered: after a full disk nothing is left that closing the file would try, and fail, to write.
        file = part.open("ab", buffering=0)
    with file:
        while chunk := response.read(CHUNK_BYTES):
            if not done and chunk.lstrip().startswith(b"<"):
                discard(part)
                raise _web_page(content.url)
            with _writing(part):
                _write_all(file, chunk)
            advance((done + len(chunk)) // 1000 - done // 1000)
            done += len(chunk)
    if done < content.size:
        raise _Interrupted(f"the connection broke off after {done} of {content.size} bytes")
    if done > content.size:
        discard(part)
        raise _Interrupted(f"{done} bytes came where {content.size} were announced")


def _write_all(file: IO[bytes], chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _write_note(part: Path, content: Content) -> None:
    write_text_atomically(note_of(part), json.dumps(asdict(content)))


def _held(url: str, part: Path) -> tuple[Content | None, int]:
    """What ``part`` is a part of and how many bytes it has; (None, 0) where it cannot be gone on from."""
    try:
        content = Content(**json.loads(note_of(part).read_bytes()))
        offset = part.stat().st_size
        usable = content.url == url and bool(content.validator) and 0 < offset <= content.size
    except (OSError, ValueError, TypeError):
        return None, 0
    return (content, offset) if usable else (None, 0)


def _whole_content(url: str, response: http.client.HTTPResponse) -> Content:
    length = response.headers.get("Content-Length", "")
    if response.status != 200 or not length.isdecimal():
        raise CheckpointError(
            f"{url}: the server answered {response.status} without saying how long the file is, so that one cut "
            f"short could not be told; try later, {BY_HAND}"
        )
    return Content(url, _validator(response), int(length))


def _validator(response: http.client.HTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    # A weak tag promises the same meaning, not the same bytes, and is not allowed in If-Range.
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _require_continuation(response: http.client.HTTPResponse, held: Content, offset: int, part: Path) -> None:
    """Raise _Interrupted, and start afresh the next time, unless the body is the rest of what is held."""
    stated = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    place = None if stated is None else (int(stated[1]), int(stated[2]), int(stated[3]))
    validator = _validator(response)
    if place != (offset, held.size - 1, held.size) or validator not in ("", held.validator):
        discard(part)
        raise _Interrupted("the file on the server has changed since the download began")


def _refuse_web_page(url: str, response: http.client.HTTPResponse) -> None:
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise _web_page(url)


def _web_page(url: str) -> CheckpointError:
    return CheckpointError(
        f"{url}: a web page came instead of a checkpoint, from a proxy or a login page perhaps; open the "
        f"address in a browser to see it, {BY_HAND}"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, never away from the web and never from https to http."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://",) if req.full_url.lower().startswith("https://") else ("https://", "http://")
        if not newurl.lower().startswith(allowed):
            raise CheckpointError(
                f"{req.full_url}: refused to follow its redirect to {newurl}; {BY_HAND[3:]}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


@contextmanager
def _plainly(url: str, part: Path) -> Iterator[None]:
    """Turn what the network does into _Interrupted or a CheckpointError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise _of_status(url, error, part) from error
    except urllib.error.URLError as error:
        cause = error.reason
        if isinstance(cause, TimeoutError | ConnectionResetError | BrokenPipeError):
            raise _Interrupted(reason(cause)) from error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise CheckpointError(f"{url}: the server's certificate is not trusted: {cause}") from error
        raise CheckpointError(
            f"{url}: no connection ({reason(cause) if isinstance(cause, Exception) else cause}); check the "
            f"network and the proxy settings, {BY_HAND}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"the connection broke off ({reason(error)})") from error


def _of_status(url: str, error: urllib.error.HTTPError, part: Path) -> Exception:
    if error.code >= 500 or error.code in (408, 429):
        return _Interrupted(f"the server answered {error.code} {error.reason}")
    if error.code == 416:
        discard(part)
        return _Interrupted("the file on the server has changed since the download began")
    if 300 <= error.code < 400:
        return CheckpointError(
            f"{url}: redirected too often, in a circle or away from the web; try later, {BY_HAND}"
        )
    if error.code in (404, 410):
        return CheckpointError(
            f"{url}: no such file on the server ({error.code}); the release was moved or renamed. Look for it "
            f"on the project's page, download it by hand and give its path as the name"
        )
    return CheckpointError(f"{url}: the server answered {error.code} {error.reason}; try later, {BY_HAND}")


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{part}: cannot be written: {error.strerror or reason(error)}; free some space there, or set "
            f"MRL_HOME to another folder"
        ) from error
