"""Download files that are pinned: resumed where they stopped, checked for size and digest, whole or not there."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from twostream.errors import UserError

TRIES = 4  # in a row without a byte gained
PAUSE_S = 1.0  # before the second try; doubled each time
TIMEOUT_S = 60

_CHUNK_BYTES = 2**18
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


def download(url: str, target: Path, sha256: str, size: int | None = None) -> None:
    """Fetch `url` over HTTP into the file `target`, which appears only when its digest is right.

    What has arrived is kept in `<target>.part`; a later call asks for the rest (RFC 9110, range requests), or starts
    again where the server sends no ranges. A connection that breaks is taken up again, up to four times without
    progress.

    Args:
        target: the file; if it is there already, it is taken for done.
        sha256: 64 hexadecimal digits that the content must have.
        size: bytes that it must have, where known.

    Raises:
        UserError: the server refuses or cannot be reached (what arrived stays, to go on from), the disk is too full, or
            size or digest are wrong (what arrived is deleted).
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    while True:
        resumed = _bytes_of(part) > 0
        _fetch(url, part, size)
        problem = _mismatch(part, sha256, size)
        if problem is None:
            os.replace(part, target)
            return
        part.unlink()
        if not resumed:
            raise UserError(f"{url}: {problem}; it was deleted: correct the mirror list or use another source")
        print(f"{url}: {problem}; begun by an earlier run, so once more from the start")


def download_from_hub(
    repo: str, revision: str, name: str, folder: Path, size: int | None = None, sha256: str | None = None
) -> Path:
    """Fetch one file of a Hugging Face data set at a pinned revision into `folder`; returns its path.

    `huggingface_hub` resumes and takes the endpoint from the environment (`HF_ENDPOINT`).

    Raises:
        UserError: it cannot be had, or size or digest are wrong (it was deleted).
    """
    where = f"Hugging Face data set {repo} at {revision[:7]}, {name}"
    try:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision, local_dir=folder))
    except Exception as error:  # its own, its HTTP library's, the file system's: whatever it is, this source has failed
        raise UserError(f"{where}: {_words(error)}") from error
    problem = _mismatch(path, sha256, size)
    if problem:
        path.unlink()
        raise UserError(f"{where}: {problem}; it was deleted: correct the mirror list or use another source")
    return path


def _mismatch(path: Path, sha256: str | None, size: int | None) -> str | None:
    if size is not None and _bytes_of(path) != size:
        return f"has {_bytes_of(path):,} bytes instead of {size:,}"
    if sha256 is not None and (found := _digest(path)) != sha256.lower():
        return f"has the SHA-256 {found} instead of {sha256.lower()}"
    return None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    bar = tqdm(total=_bytes_of(path), desc=f"checking {path.name}", unit="B", unit_scale=True, delay=1)
    with open(path, "rb") as file, bar:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _fetch(url: str, part: Path, size: int | None) -> None:
    failures = 0
    while True:
        before = _bytes_of(part)
        try:
            if _continue(url, part, size):
                return
            failure = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code not in _TRANSIENT:
                raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
            failure = f"the server answers {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failure = _words(getattr(error, "reason", None) or error)
        except OSError as error:
            raise UserError(f"{url}: {os.fspath(part)!r} cannot be written ({error.strerror})") from None
        failures = 1 if _bytes_of(part) > before else failures + 1
        if failures >= TRIES:
            raise UserError(f"{url}: {failure}; {_bytes_of(part):,} bytes are kept and the next run goes on from there")
        time.sleep(PAUSE_S * 2 ** (failures - 1))


def _continue(url: str, part: Path, size: int | None) -> bool:
    """One request for what is missing; whether the file is whole now."""
    have = _bytes_of(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "twostream"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # Nothing lies behind what we have: it is all there, or it belongs to another file.
        if _range_of(error.headers.get("Content-Range"))[1] == have:
            return True
        part.unlink()
        return False
    with response:
        start, total = 0, None
        if response.status == 206:
            start, total = _range_of(response.headers.get("Content-Range"))
            if start != have:
                raise UserError(f"{url}: the server was asked for the bytes from {have:,} on and sends others")
        elif response.headers.get("Content-Length"):
            total = int(response.headers["Content-Length"])
        _check_room(url, part, start, total, size)
        bar = tqdm(total=total, initial=start, desc=f"downloading {part.stem}", unit="B", unit_scale=True, delay=1)
        with open(part, "ab" if start else "wb") as file, bar:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > (size if size is not None else total if total is not None else float("inf")):
                    break  # more than announced: the check that follows will refuse it
    return total is None or _bytes_of(part) >= total


def _check_room(url: str, part: Path, start: int, total: int | None, size: int | None) -> None:
    if total is None:
        return
    if size is not None and total != size:
        raise UserError(
            f"{url}: has {total:,} bytes instead of {size:,}; correct the mirror list or use another source"
        )
    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        raise UserError(
            f"{url}: needs {(total - start) / 1e9:.1f} GB in {os.fspath(part.parent)!r}, where {free / 1e9:.1f} GB are "
            "free"
        )


def _range_of(content_range: str | None) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", content_range or "")
    if match is None:
        return 0, None
    return int(match[1] or 0), None if match[2] == "*" else int(match[2])


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words(error: object) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:300]
