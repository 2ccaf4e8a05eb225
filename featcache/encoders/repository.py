"""The settings files of what an encoder's id names."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.encoder_ids import EncoderId
from featcache.errors import WeightsInvalid


@dataclass(frozen=True)
class Repository:
    """The settings of a repository, and where they are from."""

    id: EncoderId
    folder: Path  # in a Hub repository's layout; weights need not be there
    source: dict[str, Any]  # of an entry
    licence: str

    def read_json(self, name: str) -> Any:
        """A settings file; None if there is none.

        Raises:
            WeightsInvalid: If it is not JSON, or not below the repository.
        """
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise WeightsInvalid(f"{self.id.text} names a file {name!r}, which is not its own")
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise WeightsInvalid(f"{path} is not JSON: {error}") from error
