"""Fetching a checkpoint's archive into a folder: resumed when cut, checked, filtered, swapped in whole."""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Callable, Dict, Iterator, Optional, Union
from urllib.parse import urljoin, urlsplit

import requests
import requests.utils
import urllib3.exceptions

from ..clients.rest import RestClient
from ..errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    ClosedError,
    DeadlineExceeded,
    status_error,
)
from ..http.endpoints import ENDPOINTS
from ..http.retry import retry_after
from ..validation import split_checkpoint_path

__all__ = ["Downloaded", "download_checkpoint", "folder_name"]

#: Told what is going on: "building" (seconds waited, None), "downloading" (bytes, bytes in all or None),
#: "unpacking" (files so far, None).
Progress = Callable[[str, float, Optional[float]], None]

_BLOCK = 1 << 18
#: Answers of a server that is still putting the archive together.
_BUILDING = frozenset({409, 425, 503})
#: The longest pause between two questions whether it is done, in seconds.
_SLOWEST = 30.0
#: Cuts in a row that brought not a byte, after which it gives up.
_FRUITLESS = 6


@dataclass(frozen=True)
class Downloaded:
    """A checkpoint on disk."""

    path: Path
    #: Of the archive, packed.
    size_bytes: int


def folder_name(tinker_path: str) -> str:
    """The folder a checkpoint is unpacked into, such as ``RUN_weights_NAME``.

    Raises:
        ValueError: it is not a checkpoint path.
    """
    run, checkpoint = split_checkpoint_path(tinker_path)
    return re.sub(r"[\\/:\0]", "_", f"{run}_{checkpoint}")


def download_checkpoint(
    rest: RestClient,
    tinker_path: str,
    destination: Union[str, Path],
    *,
    force: bool = False,
    progress: Optional[Progress] = None,
    timeout: float = 1800.0,
) -> Downloaded:
    """Fetch a checkpoint's archive and unpack it as the folder ``destination``.

    Everything happens in a temporary folder beside it; ``destination`` appears, or is replaced, whole and at the
    end. A cut connection is resumed where it broke. GET .../checkpoints/{checkpoint}/archive, then the URL
    it names, to which our API key goes only if it is on the same server.

    Args:
        force: Replace ``destination`` if it is there.
        progress: Called often, from this thread.
        timeout: Seconds for which a server may go on putting the archive together.

    Raises:
        ValueError: ``tinker_path`` is not a checkpoint path.
        FileExistsError: ``destination`` is there, and ``force`` is not set; or it is not a folder.
        APIResponseValidationError: the archive is broken, or holds something that has no place in it.
        APIStatusError, APIConnectionError, ClosedError: it cannot be fetched.
        DeadlineExceeded: the archive was not ready in time.
    """
    run, checkpoint = split_checkpoint_path(tinker_path)
    destination = Path(destination)
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise FileExistsError(f"{destination} is there and is not a folder: choose another place")
    if destination.exists() and not force:
        raise FileExistsError(
            f"{destination} is there already: choose another place, or force=True replaces it"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    tell = progress or (lambda phase, done, total: None)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name[:60]}.", dir=destination.parent) as folder:
        packed, unpacked = Path(folder, "archive"), Path(folder, "checkpoint")
        with packed.open("w+b") as file:
            size = _Fetch(rest, run, checkpoint, file, tell, timeout).run()
        _unpack(packed, unpacked, tell)
        packed.unlink()
        _swap(unpacked, destination, Path(folder, "replaced"))
    return Downloaded(destination, size)


class _Fetch:
    """The bytes of one archive on their way into a file."""

    def __init__(
        self, rest: RestClient, run: str, checkpoint: str, file: IO[bytes], tell: Progress, timeout: float
    ) -> None:
        self._rest = rest
        self._session = rest._session
        self._run = run
        self._checkpoint = checkpoint
        self._file = file
        self._tell = tell
        self._building_until = self._session.clock.time() + timeout
        self._done = 0
        self._total: Optional[int] = None
        #: ETag or Last-Modified of what is in the file: only the same thing may be continued.
        self._version: Optional[str] = None

    def run(self) -> int:
        fruitless = 0
        url = self._url()
        while True:
            before = self._done
            try:
                self._receive(url)
                return self._done
            except APIStatusError as error:
                # A link ends after a while; a new one leads to the same file.
                if error.status_code not in (403, 404, 410, 429) and error.status_code < 500:
                    raise
                failure: Exception = error
            except APIConnectionError as error:
                failure = error
            fruitless = 0 if self._done > before else fruitless + 1
            if fruitless >= _FRUITLESS:
                raise failure
            self._pause(min(2.0**fruitless / 2, _SLOWEST))
            if isinstance(failure, APIStatusError):
                url = self._url()

    def _pause(self, seconds: float) -> None:
        if self._session.clock.wait(self._session.closing, seconds):
            raise ClosedError("the client was closed during a download")

    def _url(self) -> str:
        """Where the archive is, once it exists."""
        clock, began, delay = self._session.clock, self._session.clock.time(), 1.0
        while True:
            try:
                found = self._rest.get_checkpoint_archive_url(self._run, self._checkpoint)
            except APIStatusError as error:
                if error.status_code not in _BUILDING:
                    raise
                now = clock.time()
                self._tell("building", now - began, None)
                wait = min(error.retry_after or delay, _SLOWEST)
                if now + wait > self._building_until:
                    raise DeadlineExceeded(
                        f"the server was still putting the archive together after {now - began:.0f} s: {error}",
                        phase="polling",
                        sent="yes",
                    ) from error
                self._pause(wait)
                delay = min(delay * 1.5, _SLOWEST)
            else:
                path = ENDPOINTS["checkpoint_archive"].url(run=self._run, checkpoint_path=self._checkpoint)
                asked = urljoin(self._session.transport.base_url, path.lstrip("/"))
                return urljoin(asked, found.url)

    def _receive(self, url: str) -> None:
        """One GET; the file and its counters go as far as it came."""
        config = self._session.config
        try:
            with requests.Session() as http:
                # No credentials out of a netrc file.
                http.trust_env = False
                proxies = config.proxies
                http.proxies = dict(requests.utils.get_environ_proxies(url) if proxies is None else proxies)
                http.verify = self._session.transport.verify
                http.cert = config.client_certificate
                self._read(http, url)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise APIConnectionError(
                f"the download broke off after {self._done} of {self._total or 'an unknown number of'} bytes: {error}"
            ) from error

    def _headers(self, url: str) -> Dict[str, str]:
        # The bytes as they are stored: lengths and ranges count those.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        config = self._session.config
        if urlsplit(url)[:2] == urlsplit(self._session.transport.base_url)[:2]:
            key = self._session.credentials.key(False, None) or config.api_key
            if key:
                headers["X-API-Key"] = key
        if self._done and self._version:
            headers["Range"] = f"bytes={self._done}-"
            headers["If-Range"] = self._version
        return headers

    def _read(self, http: requests.Session, url: str) -> None:
        config, clock = self._session.config, self._session.clock
        timeouts = (clock.real(config.connect_timeout), clock.real(60.0))
        for _ in range(5):
            with http.get(
                url, headers=self._headers(url), timeout=timeouts, stream=True, allow_redirects=False
            ) as answer:
                target = answer.headers.get("location")
                if 300 <= answer.status_code < 400 and target:
                    url = urljoin(url, target)
                    if urlsplit(url).scheme not in ("http", "https"):
                        raise APIResponseValidationError(f"the archive is at {url!r}, which is not HTTP")
                    continue
                lowered = {name.lower(): value for name, value in answer.headers.items()}
                if answer.status_code not in (200, 206):
                    raise status_error(
                        answer.status_code, body=answer.text[:2000].strip(), headers=lowered,
                        retry_after=retry_after(lowered),
                    )  # fmt: skip
                self._begin(answer.status_code, lowered)
                self._copy(answer)
                return
        raise APIResponseValidationError(f"the archive's address {url!r} redirects without end")

    def _begin(self, status: int, headers: Dict[str, str]) -> None:
        """Take the length and the version of what comes; start over unless it continues what is there."""
        length = headers.get("content-length", "")
        content_range = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("content-range", ""))
        if status == 206 and content_range is not None and int(content_range.group(1)) == self._done:
            total = content_range.group(3)
            self._total = int(content_range.group(2)) + 1 if total == "*" else int(total)
            return
        if status == 206:
            # Not the part that was asked for: without a version the next request asks for all of it.
            self._version = None
            raise requests.ConnectionError("the server sent another part than it was asked for")
        self._file.seek(0)
        self._file.truncate()
        self._done = 0
        self._total = int(length) if length.isdigit() else None
        etag = headers.get("etag", "")
        # A weak ETag does not promise the same bytes.
        self._version = etag if etag and not etag.startswith("W/") else headers.get("last-modified")

    def _copy(self, answer: requests.Response) -> None:
        self._tell("downloading", self._done, self._total)
        for block in answer.raw.stream(_BLOCK, decode_content=False):
            self._file.write(block)
            self._done += len(block)
            self._tell("downloading", self._done, self._total)
            if self._session.closing.is_set():
                raise ClosedError("the client was closed during a download")
        if self._total is not None and self._done != self._total:
            raise requests.ConnectionError(f"{self._total} bytes were announced")
        self._file.flush()


def _broken(what: str) -> APIResponseValidationError:
    return APIResponseValidationError(f"the archive cannot be used, and nothing was changed: {what}")


def _unpack(packed: Path, folder: Path, tell: Progress) -> None:
    """Unpack a tar archive, packed in any way, as plain files; every byte of it is read and checked."""
    folder.mkdir()
    count = 0
    try:
        with tarfile.open(packed, "r:*") as archive:
            for member in archive:
                target = folder.joinpath(_checked_name(member.name))
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with _content(archive, member) as content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, _BLOCK)
                count += 1
                tell("unpacking", count, None)
            # What is behind the last file holds the checksum of a packed archive.
            with contextlib.suppress(AttributeError):
                while archive.fileobj.read(_BLOCK):
                    pass
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _broken(str(error) or type(error).__name__) from error
    except Exception as error:
        # zlib.error and LZMAError have no common parent.
        if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
            raise
        raise _broken(str(error)) from error
    if count == 0:
        raise _broken("there are no files in it")


def _checked_name(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or "\0" in name
        or re.match(r"[A-Za-z]:", name)
    ):
        raise ValueError(f"{name!r} would be unpacked outside the folder")
    return path


@contextlib.contextmanager
def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[IO[bytes]]:
    """A file's content; a link stands for a copy of the file in the archive that it leads to."""
    file: Any = None
    if member.isreg() or member.islnk() or member.issym():
        try:
            file = archive.extractfile(member)
        except (KeyError, RecursionError):
            raise ValueError(
                f"{member.name!r} is a link to {member.linkname!r}, which is not in it"
            ) from None
    if file is None:
        raise ValueError(f"{member.name!r} is neither a file nor a folder")
    with file:
        yield file


def _swap(new: Path, destination: Path, aside: Path) -> None:
    """Put ``new`` where ``destination`` is; if that fails, leave what was there."""
    replaced = destination.exists()
    if replaced:
        destination.rename(aside)
    try:
        new.rename(destination)
    except OSError:
        if replaced:
            aside.rename(destination)
        raise
