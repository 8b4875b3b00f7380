"""Downloads that are kept, checked against their checksum and never left half done."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from polycontrast.errors import DataError

_BLOCK = 1 << 20


def cache_dir() -> Path:
    """Where downloads are kept: ``$POLYCONTRAST_CACHE``, else ``~/.cache/polycontrast``."""
    chosen = os.environ.get("POLYCONTRAST_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "polycontrast"


def fetch(url: str, sha256: str, *, name: str, timeout: float = 60.0) -> Path:
    """The file behind ``url``, from the cache if it is there.

    It is written beside its place and renamed once the checksum is right, so that an interrupted download leaves
    nothing and two processes may fetch the same file.

    Args:
        url: http, https or file.
        sha256: checksum in hexadecimal digits.
        name: file name in the cache, may hold folders: ``ett/ETTh1.csv``.
        timeout: seconds without an answer after which the attempt ends.

    Raises:
        DataError: no connection, no such file, a wrong checksum, no room. The message says where a copy that was
            fetched by other means is looked for.
    """
    root = cache_dir()
    target = root / name
    if not target.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"name must stay inside the cache, got {name!r}")
    expected = sha256.lower()
    if target.is_file():
        found = _checksum(target)
        if found == expected:
            return target
        # Somebody's own copy may be meant: it is theirs to remove.
        raise DataError(
            f"{target} has checksum {found[:12]}..., expected {expected[:12]}...; delete it to fetch it again"
        )
    by_hand = f"or download it elsewhere and put it at {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise DataError(
            f"cannot write {target} ({error.strerror}); set POLYCONTRAST_CACHE to a writable folder"
        ) from error
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=timeout) as answer:
            while block := answer.read(_BLOCK):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != expected:
            raise DataError(
                f"{url} has checksum {digest.hexdigest()[:12]}..., expected {expected[:12]}...; "
                f"it was changed or cut on the way, try again {by_hand}"
            )
        Path(part).chmod(0o644)  # mkstemp's 0600 would shut out the others who share a cache.
        Path(part).replace(target)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url} answers {error.code} ({error.reason}); try again later {by_hand}") from error
    except urllib.error.URLError as error:
        what = f"{url} cannot be reached ({error.reason}); check the network"
        raise DataError(f"{what} {by_hand}") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise DataError(f"{url} broke off ({error or type(error).__name__}); try again {by_hand}") from error
    except OSError as error:
        raise DataError(
            f"cannot write {target} ({error.strerror or error}); make room there or set POLYCONTRAST_CACHE"
        ) from error
    finally:
        Path(part).unlink(missing_ok=True)
    return target


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
