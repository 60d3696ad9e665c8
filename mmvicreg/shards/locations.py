"""Where shards are: local paths and URLs, which of them mean the same shard, and texts without their secrets."""

from __future__ import annotations

import hashlib
import os
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

MAX_NAME = 100
"""characters of a file name made from a URL; longer names end in a hash"""
SIGNING_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-ms-")
SIGNING_PARAMETERS = frozenset(
    "signature sig expires expiry key-pair-id policy awsaccesskeyid googleaccessid ossaccesskeyid securitytoken "
    "token access_token auth authkey auth_key key api_key apikey verify hdnea hdnts "
    "se sp sv sr st spr ss srt sip skoid sktid skt ske sks skv sdd saoid suoid".split()
)
"""Query parameters that say who may read a URL and until when, not what it is (S3, GCS, Azure, CDNs)."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?!::)[^\s'\"<>`\\])+")


def is_remote(path: str) -> bool:
    """Whether ``path`` is a URL."""
    return "://" in path


def cache_folder() -> str:
    """The user's cache folder for index files and copies of shards: $MMVICREG_CACHE, or ~/.cache/mmvicreg."""
    own = os.environ.get("MMVICREG_CACHE")
    return own or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mmvicreg")


def redact(text: str) -> str:
    """``text`` with every URL in it shown without user, password, query values and fragment.

    For messages, logs and saved configurations: a presigned URL carries its key in the query.
    """
    return _URL.sub(lambda match: _redacted(match.group()), text)


def _redacted(url: str) -> str:
    scheme, rest = url.split("://", 1)
    rest, _, _ = rest.partition("#")
    rest, mark, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    names = [part.split("=", 1)[0] for part in query.split("&") if part]
    shown = "&".join(f"{name}=***" if f"{name}=" in query else "***" for name in names)
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{mark}{shown}"


def identity(path: str) -> str:
    """What ``path`` names: a URL without user, password, fragment and signing parameters, or the absolute local path.

    A shard under a new signature of its URL is the same shard.
    """
    if not is_remote(path):
        return os.path.abspath(path)
    parts = urlsplit(path)
    query = urlencode(sorted(_naming_parameters(parts.query)))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + (f"?{query}" if query else "")


def _naming_parameters(query: str) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in parse_qsl(query, keep_blank_values=True)
        if name.lower() not in SIGNING_PARAMETERS and not name.lower().startswith(SIGNING_PREFIXES)
    ]


def file_name(path: str) -> str:
    """The file name of a shard, for index files, ledgers and reports; at most MAX_NAME characters for a URL.

    Parameters of a URL that are part of its identity appear as a hash of eight digits.
    """
    if not is_remote(path):
        return os.path.basename(path)
    parts = urlsplit(path)
    name = os.path.basename(parts.path) or "shard"
    naming = sorted(_naming_parameters(parts.query))
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 13]}-{_short_hash(name, 8)}.tar"
    return f"{name}?{_short_hash(repr(naming), 8)}" if naming else name


def index_paths(path: str) -> tuple[str, str]:
    """(beside the shard, in the cache folder): one index file for all shards of a folder that share a prefix.

    A remote shard has its index file in the cache folder alone, under names without secrets.
    """
    if is_remote(path):
        folder, file = os.path.dirname(identity(path).partition("?")[0]), file_name(path).partition("?")[0]
    else:
        folder, file = os.path.split(os.path.abspath(path))
    prefix = re.sub(r"[-_.]*\d+$", "", file.removesuffix(".tar")) or "shards"
    cached = os.path.join(cache_folder(), "index", _short_hash(folder, 16), f"{prefix}.index")
    return (cached if is_remote(path) else os.path.join(folder, f"{prefix}.index")), cached


def _short_hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]
