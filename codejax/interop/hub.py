"""A model's folder by path, or by name on the Hugging Face hub, whence it is downloaded.

Names are written hf://OWNER/NAME, with @REVISION after it if need be. Downloads go through the
package huggingface_hub, with its cache, its login and its HF_ENDPOINT; a broken one goes on where
it stopped.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

SCHEME = "hf://"
NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
# Weights as safetensors, and the small files beside them.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def commit_of(folder: Path) -> str:
    """The commit that a folder of the hub's cache holds, which is its name."""
    return folder.name


def is_wanted(file: str) -> bool:
    """Whether a file of a model is downloaded, by its path in the folder."""
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in WANTED)


def find_folder(source: str) -> Path:
    """The local folder of a model; ValueError, in one line, where there is none and none comes."""
    if not source.startswith(SCHEME):
        if not Path(source).is_dir():
            raise ValueError(
                f"{source} is no folder; a model of the hub is written hf://OWNER/NAME"
            )
        return Path(source)
    match = NAME.fullmatch(source)
    if match is None:
        raise ValueError(f"{source} is no name on the hub; wanted hf://OWNER/NAME or ...@REVISION")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ValueError(
            f"to download {source} install huggingface_hub, or give a local folder"
        ) from error
    name, revision = match.groups()
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=WANTED)
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{source} is gated: accept its terms on its page, then log in with `hf auth login` or "
            "HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{source} is not on the hub, or private and you not logged in") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{source}: the hub has no revision {revision}") from error
    except Exception as error:  # of the network, of its client, of the disk
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{source} could not be downloaded: {type(cause).__name__}: {reason}"
        ) from error
    return Path(folder)
