"""Download the archive of a checkpoint into a folder. An interrupted download is resumed."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Dict, Optional, Union
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
from ..http.transport import checked_proxy, connection_remedy, find_proxies, root_cause
from ..validation import split_checkpoint_path
from .archive import replace_folder, unpack

__all__ = ["Downloaded", "download_checkpoint", "folder_name"]

#: Called with the phase and its progress: "building" (seconds waited, None), "downloading" (bytes so far, bytes of the
#: archive or None), "unpacking" (files so far, None).
Progress = Callable[[str, float, Optional[float]], None]

_BLOCK = 1 << 18
#: Status codes of a server that is still building the archive.
_BUILDING = frozenset({409, 425, 503})
#: Longest pause between two requests, in seconds.
_LONGEST_PAUSE = 30.0
#: Read timeout of the download, in seconds.
_READ_TIMEOUT = 60.0
#: Consecutive interruptions without a received byte, after which the download fails.
_MOST_FRUITLESS = 6
_MOST_REDIRECTS = 4


@dataclass(frozen=True)
class Downloaded:
    """A checkpoint in a folder."""

    path: Path
    #: Size of the archive, in bytes.
    size_bytes: int


def folder_name(tinker_path: str) -> str:
    """Return the name of the folder for a checkpoint, such as ``RUN_weights_NAME``.

    Raises:
        ValueError: ``tinker_path`` is not the path of a checkpoint.
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
    max_bytes: int = 1 << 37,
) -> Downloaded:
    """Download the archive of a checkpoint and unpack it as the folder ``destination``.

    The work is done in a temporary folder beside ``destination``. At the end, ``destination`` is created or replaced in
    one step. An interrupted download is resumed. The request is GET .../checkpoints/{checkpoint}/archive, then GET of
    the URL that it returns. The API key is sent to that URL only if it is on the same server.

    Args:
        rest: The client whose server has the checkpoint.
        tinker_path: ``tinker://RUN/weights/NAME`` or ``tinker://RUN/sampler_weights/NAME``.
        destination: The folder.
        force: Whether an existing folder is replaced.
        progress: Called often, from this thread, with the phase ("building", "downloading", "unpacking"), the amount
            that is done (seconds, bytes, files) and the total or None.
        timeout: Longest time for which the server may build the archive, in seconds.
        max_bytes: Size of the archive at most, and of its files; default: 128 GiB.

    Raises:
        ValueError: ``tinker_path`` is not the path of a checkpoint.
        FileExistsError: ``destination`` exists and ``force`` is not set, or it is not a folder.
        APIResponseValidationError: The archive is broken or too large, or contains a member outside the folder.
        APIStatusError, APIConnectionError, ClosedError: The download failed.
        DeadlineExceeded: The archive was not ready in time.
    """
    run, checkpoint = split_checkpoint_path(tinker_path)
    destination = Path(destination)
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise FileExistsError(f"{destination} exists and is not a folder: give another destination")
    if destination.exists() and not force:
        raise FileExistsError(f"{destination} already exists: give another destination, or force=True to replace it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda phase, done, total: None)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name[:60]}.", dir=destination.parent) as folder:
        packed, unpacked = Path(folder, "archive"), Path(folder, "checkpoint")
        with packed.open("w+b") as file:
            size = _Download(rest, run, checkpoint, file, report, timeout, max_bytes).run()
        unpack(packed, unpacked, lambda count: report("unpacking", count, None), max_bytes)
        packed.unlink()
        replace_folder(unpacked, destination, Path(folder, "replaced"))
    return Downloaded(destination, size)


def _join(url: str, location: str) -> str:
    """Return the URL at ``location``, which may be relative to ``url``.

    Raises:
        APIResponseValidationError: It is not an HTTP URL.
    """
    try:
        joined = urljoin(url, location)
        parts = urlsplit(joined)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return joined
    except ValueError:
        pass
    raise APIResponseValidationError(f"the URL of the archive is not HTTP: {location!r}")


class _Download:
    """The download of one archive into a file. Used by one thread.

    Invariant: the file contains the first ``_done`` bytes of the archive version ``_version``.
    """

    def __init__(
        self,
        rest: RestClient,
        run: str,
        checkpoint: str,
        file: IO[bytes],
        report: Progress,
        timeout: float,
        max_bytes: int,
    ) -> None:
        self._rest = rest
        self._session = rest.session
        self._run = run
        self._checkpoint = checkpoint
        self._file = file
        self._report = report
        self._max_bytes = max_bytes
        self._build_deadline = self._session.clock.time() + timeout
        self._done = 0
        self._total: Optional[int] = None
        #: ETag or Last-Modified of the archive. Only the same version may be resumed.
        self._version: Optional[str] = None

    def run(self) -> int:
        """Download the archive and return its size in bytes."""
        fruitless = 0
        url = self._wait_for_url()
        while True:
            before = self._done
            try:
                self._request(url)
                return self._done
            except APIStatusError as error:
                # A URL expires after some time. A new URL leads to the same archive.
                if error.status_code not in (403, 404, 410, 429) and error.status_code < 500:
                    raise
                failure: Exception = error
            except APIConnectionError as error:
                if error.is_final:
                    raise
                failure = error
            fruitless = 0 if self._done > before else fruitless + 1
            if fruitless >= _MOST_FRUITLESS:
                raise failure
            self._pause(min(2.0**fruitless / 2, _LONGEST_PAUSE))
            if isinstance(failure, APIStatusError):
                url = self._wait_for_url()

    def _pause(self, seconds: float) -> None:
        if self._session.clock.wait(self._session.closing, seconds):
            raise ClosedError("the client was closed during a download")

    def _wait_for_url(self) -> str:
        """Return the URL of the archive. While the server builds the archive, the request is repeated."""
        clock, started, delay = self._session.clock, self._session.clock.time(), 1.0
        while True:
            try:
                found = self._rest.get_checkpoint_archive_url(self._run, self._checkpoint)
            except APIStatusError as error:
                if error.status_code not in _BUILDING:
                    raise
                now = clock.time()
                self._report("building", now - started, None)
                pause = min(error.retry_after or delay, _LONGEST_PAUSE)
                if now + pause > self._build_deadline:
                    raise DeadlineExceeded(
                        f"the server was still building the archive after {now - started:.0f} s: {error}",
                        phase="polling",
                        sent="yes",
                    ) from error
                self._pause(pause)
                delay = min(delay * 1.5, _LONGEST_PAUSE)
            else:
                path = ENDPOINTS["checkpoint_archive"].url(run=self._run, checkpoint_path=self._checkpoint)
                requested_url = urljoin(self._session.transport.base_url, path.lstrip("/"))
                return _join(requested_url, found.url)

    def _request(self, url: str) -> None:
        """Send one GET request and write what it returns. The file keeps the part that was received before an error."""
        config = self._session.config
        try:
            with requests.Session() as http:
                # Otherwise requests sends credentials from a netrc file.
                http.trust_env = False
                http.proxies = find_proxies(config, url)
                http.verify = self._session.transport.verify
                http.cert = config.client_certificate
                self._follow(http, url)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._interrupted(error, url) from error

    def _interrupted(self, error: Exception, url: str) -> APIConnectionError:
        """Return the error of an interrupted download. It names the server, the proxy and the remedy."""
        total, cause = self._total or "an unknown number of", root_cause(error)
        proxy = checked_proxy(requests.utils.select_proxy(url, find_proxies(self._session.config, url)))
        server = f"server {urlsplit(url).netloc.rpartition('@')[2]}{proxy and f', through proxy {proxy}'}"
        remedy = connection_remedy(cause)
        made = APIConnectionError(
            f"the download was interrupted after {self._done} of {total} bytes: {cause} ({server})"
            f"{remedy and f' [{remedy}]'}"
        )
        made.is_final = bool(remedy)
        return made

    def _headers(self, url: str) -> Dict[str, str]:
        # identity: Content-Length and Content-Range must count the bytes of the archive.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if urlsplit(url)[:2] == urlsplit(self._session.transport.base_url)[:2]:
            key = self._session.credentials.key(False, None) or self._session.config.api_key
            headers = {**self._session.config.headers, **headers}
            if key:
                headers["X-API-Key"] = key
        if self._done and self._version:
            headers["Range"] = f"bytes={self._done}-"
            headers["If-Range"] = self._version
        return headers

    def _follow(self, http: requests.Session, url: str) -> None:
        """Follow redirects, and copy the body of the first other response."""
        config, clock = self._session.config, self._session.clock
        timeouts = (clock.real(config.connect_timeout), clock.real(_READ_TIMEOUT))
        for _ in range(_MOST_REDIRECTS + 1):
            headers = self._headers(url)
            with http.get(url, headers=headers, timeout=timeouts, stream=True, allow_redirects=False) as response:
                location = response.headers.get("location")
                if not 300 <= response.status_code < 400 or not location:
                    self._copy(response)
                    return
                url = _join(url, location)
        raise APIResponseValidationError(f"the URL of the archive redirects too often: {url!r}")

    def _copy(self, response: requests.Response) -> None:
        """Write the body of a response to the file.

        Raises:
            APIStatusError: The response has another status than 200 and 206.
        """
        headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status_code not in (200, 206):
            raise status_error(
                response.status_code,
                body=next(response.iter_content(2000), b"").decode("utf-8", "replace").strip(),
                headers=headers,
                retry_after=retry_after(headers),
            )
        self._begin(response.status_code, headers)
        self._check_size(self._total or 0)
        self._report("downloading", self._done, self._total)
        for block in response.raw.stream(_BLOCK, decode_content=False):
            self._file.write(block)
            self._done += len(block)
            self._check_size(self._done)
            self._report("downloading", self._done, self._total)
            if self._session.closing.is_set():
                raise ClosedError("the client was closed during a download")
        if self._total is not None and self._done != self._total:
            raise requests.ConnectionError(f"the server returned fewer or more than {self._total} bytes")
        self._file.flush()

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise APIResponseValidationError(
                f"the archive has {size} bytes or more: set max_bytes (now {self._max_bytes}) higher if it may"
            )

    def _begin(self, status: int, headers: Dict[str, str]) -> None:
        """Set the length and the version from the headers. Empty the file unless the response continues it."""
        length = headers.get("content-length", "")
        content_range = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("content-range", ""))
        if status == 206 and content_range is not None and int(content_range.group(1)) == self._done:
            total = content_range.group(3)
            self._total = int(content_range.group(2)) + 1 if total == "*" else int(total)
            return
        if status == 206:
            # Without a version, the next request is for the complete archive.
            self._version = None
            raise requests.ConnectionError("the server returned another part than the requested one")
        self._file.seek(0)
        self._file.truncate()
        self._done = 0
        self._total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        etag = headers.get("etag", "")
        # A weak ETag does not guarantee equal bytes.
        self._version = etag if etag and not etag.startswith("W/") else headers.get("last-modified")
