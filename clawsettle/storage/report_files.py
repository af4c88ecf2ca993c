"""Reports as files: written once while they are hashed, then sent or kept, in bounded memory."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, cast

from attrs import define, field, frozen

from clawsettle.domain.errors import StorageError
from clawsettle.domain.payout_reports import ReportFormat

MEMORY_MAX_BYTES = 2**20
"""What of a report stays in memory; a longer one goes to a temporary file that has no name."""


@frozen
class ReportFile:
    """A finished report: ``head``, and then ``file`` from where it stands to its end.

    ``file_bytes`` counts the latter. ``sha256`` is of the report's content, in every format the
    same; ``csv_sha256`` is of a CSV's bytes. Whoever has it closes ``file``, and then it is gone.
    """

    head: bytes
    file: BinaryIO
    file_bytes: int
    sha256: str
    csv_sha256: str | None


@define
class ReportDraft:
    """What is written of a report so far: the text that is hashed, and the one that is sent."""

    format: ReportFormat
    file: BinaryIO
    _content: "hashlib._Hash" = field(factory=hashlib.sha256, init=False)
    _csv: "hashlib._Hash" = field(factory=hashlib.sha256, init=False)

    def hash(self, content: bytes) -> None:
        """Go on with the text that the report's hash is of."""
        self._content.update(content)

    def write(self, data: bytes) -> None:
        """Go on with the text that is sent. Raises: StorageError when the disk is full."""
        if self.format is ReportFormat.CSV:
            self._csv.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            raise StorageError(f"the report cannot be written: {error.strerror}") from error

    @property
    def sha256(self) -> str:
        """Return the hash of the content so far."""
        return self._content.hexdigest()

    def finish(self, head: bytes = b"") -> ReportFile:
        """Return the report, with what stands before all that was written."""
        size = self.file.tell()
        self.file.seek(0)
        csv_sha256 = self._csv.hexdigest() if self.format is ReportFormat.CSV else None
        return ReportFile(head, self.file, size, self.sha256, csv_sha256)


@contextmanager
def open_draft(written: ReportFormat) -> Iterator[ReportDraft]:
    """Begin a report; unless the block ends well, what was written of it is gone."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=MEMORY_MAX_BYTES))
        yield ReportDraft(written, cast("BinaryIO", file))
        stack.pop_all()
