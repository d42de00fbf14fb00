"""Download files of Hugging Face data sets at a pinned commit, and check their size and digest."""

from __future__ import annotations

from pathlib import Path

from twostream.core.files import sha256_of
from twostream.errors import UserError, reason


def download(
    repo: str, revision: str, name: str, folder: Path, size: int | None = None, sha256: str | None = None
) -> Path:
    """Download one file of the data set `repo` at the commit `revision` into `folder` and return its path.

    `huggingface_hub` resumes broken downloads and reads the endpoint from the environment (`HF_ENDPOINT`).

    Raises:
        UserError: the download fails, or size or digest are wrong; a wrong file is deleted.
    """
    where = f"Hugging Face data set {repo} at {revision[:7]}, {name}"
    try:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision, local_dir=folder))
    except Exception as error:  # its own, its HTTP library's or the file system's: in any case this source has failed
        raise UserError(f"{where}: {reason(error.__cause__ or error)}") from error
    problem = ""
    if size is not None and (found_size := path.stat().st_size) != size:
        problem = f"has {found_size:,} bytes instead of {size:,}"
    elif sha256 is not None and (found := sha256_of(path)) != sha256.lower():
        problem = f"has the SHA-256 {found} instead of {sha256.lower()}"
    if problem:
        path.unlink()
        raise UserError(f"{where}: {problem}; it was deleted: correct the mirror list or use another source")
    return path
