"""The Hugging Face hub: files of a repository, and a folder as a repository."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmvicreg.errors import InvalidValueError, MissingFileError, first_line


def download(repository: str, patterns: Iterable[str]) -> Path:
    """The folder with these files of a Hugging Face repository. Raises FileNotFoundError where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (HTTPError, OSError) as error:  # of its HTTP library: no connection; of its own: refused
        raise MissingFileError(
            f"hf/{repository} cannot be downloaded: {first_line(error)} Check its name, the network, "
            "and for a private repository your login (hf auth login)"
        ) from None


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder to a repository of the Hugging Face hub; its address. Raises ValueError where that is refused."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder)))
    except (HTTPError, OSError) as error:  # of its HTTP library: no connection; of its own: refused
        raise InvalidValueError(
            f"{folder} was not pushed to {repository}: {first_line(error)} Pushing needs the network and "
            "a login that may write there (hf auth login)"
        ) from None
