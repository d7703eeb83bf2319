"""Episodes on disk, as they come: a file of JSON lines that a kill leaves readable."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

from codejax.rollout.episode import Episode
from codejax.rollout.journal import Journal

FILE = "episodes.jsonl"
FOLDER = "episodes"  # of a run of reinforcement learning: such a file for each step


class Recording:
    """Appends to `episodes.jsonl` of a folder, for one process. Close it, or use `with`.

    A torn last line of an earlier process is cut off. What the file holds is for readers: to go on
    with a run, see who wrote it.
    """

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / FILE)

    def add(
        self,
        episode: Episode,
        *,
        reward: float | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Note an episode. reward: what training made of it; None where that is nothing. notes:
        further facts of JSON, such as the iteration that it belongs to.
        """
        self._journal.append(episode.to_line() | {"reward": reward, "notes": dict(notes or {})})

    def close(self) -> None:
        """Everything is on the disk after this."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
