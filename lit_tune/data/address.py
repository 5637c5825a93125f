"""Names of objects that do not lie on this machine: gs://bucket/key, s3://bucket/key, http(s)://host/path."""

import re
from dataclasses import dataclass

from lit_tune.redaction import redact

SCHEMES = {  # what opens them, beside fsspec: the extra of this package to install, "" where nothing is missing
    "gs": "gcs",
    "s3": "s3",
    "http": "",
    "https": "",
    "memory": "",  # fsspec's own store inside one process
}


@dataclass(frozen=True)
class Address:
    """One object. It has the name parts of a `pathlib.Path`, and its text is fit for messages and logs.

    Attributes:
        url: the whole address, as it is asked for; a signed one carries a secret in its query.
    """

    url: str

    def __str__(self) -> str:
        """The address without query, user and password, whatever signs they and the path hold."""
        return redact(re.sub(r"(?<=://)[^/]*@", "", self._path))

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def scheme(self) -> str:
        """What stands before `://`."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part: "00000.tar"."""
        return self._path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def suffix(self) -> str:
        """The last suffix with its dot, "" for none."""
        return self.name[len(self.stem) :]

    def with_name(self, name: str) -> "Address":
        """Another object beside this one; a signature holds for one object only, but some queries hold for all."""
        return Address(self._path.rpartition("/")[0] + f"/{name}" + self._query)

    @property
    def _path(self) -> str:
        return self.url.removesuffix(self._query)

    @property
    def _query(self) -> str:
        return "".join(self.url.partition("?")[1:]) if self.scheme in ("http", "https") else ""


def is_address(text: object) -> bool:
    """Whether a spec names something that lies elsewhere."""
    return "://" in str(text)
