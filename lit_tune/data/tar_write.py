"""Tar shards whose bytes depend on their content only, so that writing them again gives the same file."""

import io
import tarfile
from pathlib import Path
from types import TracebackType


class TarShard:
    """A tar that is written member by member: no times, no owners, names of any length (pax). A context manager.

    Args:
        path: the file, made anew.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Write one sample.

        Args:
            key: of the sample; it may hold slashes, but no dot after the last of them.
            members: {suffix: content}, in the order of writing.
        """
        for suffix, data in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")  # time 0, owner 0, mode 0o644
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))

    def __enter__(self) -> "TarShard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._tar.close()
