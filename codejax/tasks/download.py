"""Files from the network, kept: a download that is whole and has the right checksum, or none.

In: an address and the sha256 that is wanted. Out: a path in the cache. A file is written beside its
place and renamed once it is right, so that no reader meets half of one.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import http.client
import os
import pathlib
import re
import tempfile
import time
import urllib.error
import urllib.request

ATTEMPTS = 4
PAUSE = 0.5  # seconds before the second attempt; twice as long before each further one
TIMEOUT = 60.0  # seconds without a byte
PIECE = 1 << 20


def cache_folder() -> pathlib.Path:
    """Where downloads stay: `$CODEJAX_CACHE`, or codejax in the user's cache."""
    if folder := os.environ.get("CODEJAX_CACHE"):
        return pathlib.Path(folder)
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "codejax"


def download(
    url: str, sha256: str, *, folder: pathlib.Path | None = None, pause: float = PAUSE
) -> pathlib.Path:
    """The path of a file with this sha256 (hex), downloaded unless it is in the cache.

    Raises ValueError, in one line, for an address that gives nothing or something else.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{url}: a download wants its sha256 (64 hex digits), found {sha256!r}")
    name = re.sub(r"[^\w.-]", "_", url.split("?")[0].rstrip("/").rpartition("/")[2])[-80:]
    place = (folder or cache_folder() / "downloads") / sha256[:16] / (name or "file")
    if place.is_file() and _sha256(place) == sha256:
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            return _fetch(url, sha256, place)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
    raise ValueError(f"{url} could not be downloaded: {reason}")


def _fetch(url: str, sha256: str, place: pathlib.Path) -> pathlib.Path:
    """One attempt. OSError for one worth repeating; ValueError for a wrong checksum."""
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=".part-")
    part = pathlib.Path(name)
    try:
        digest, length = hashlib.sha256(), 0
        with (
            os.fdopen(handle, "wb") as stream,
            urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
        ):
            promised = answer.headers.get("Content-Length")
            while piece := answer.read(PIECE):
                stream.write(piece)
                digest.update(piece)
                length += len(piece)
        if promised is not None and length != int(promised):
            raise OSError(f"{length} of {promised} bytes came")
        if digest.hexdigest() != sha256:
            raise ValueError(f"{url} has sha256 {digest.hexdigest()}, wanted {sha256}")
        part.replace(place)
        return place
    finally:
        part.unlink(missing_ok=True)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
