"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clawsettle.domain.errors import ConfigError, StorageError


@contextmanager
def open_kept(file: Path) -> Iterator[BinaryIO]:
    """Write a file that gets its name when it is complete and on disk, readable by its owner.

    Until then it has another name beside it, and whatever fails leaves an older file as it was.

    Raises: ConfigError when its directory cannot be written; StorageError when the disk is full or
    the like.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise ConfigError([f"{file} cannot be written: {error.strerror}"]) from error
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
        _sync_folder(file.parent)
    except OSError as error:
        raise unwritten(error) from error
    finally:
        draft.unlink(missing_ok=True)


def unwritten(error: OSError) -> StorageError:
    """Return what a failed write of such a file is, for who writes it."""
    return StorageError(f"the file cannot be written: {error.strerror}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
