"""The data of a node as apps look for them: in their working folder, and through the libraries of Hugging Face.

`datasets.load_dataset("acme/flowers")`, and with it `FederatedDataset` of flwr-datasets, reads the folder
`acme/flowers` if there is one. Otherwise it reads a cache, which the same call has filled on a machine with a way to
the Hub. Both may be in the data folder, so an app that names a data set of the Hub runs without a way to it, unchanged.

The data folder itself is never written, and may be read-only.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from oneflower_appliance.volumes import entries

_CACHES = ("datasets", "hub")  # in a folder that HF_HOME names
_LOCK = ".lock"
_DONE = ".complete"


def offer(data: Path, work: Path) -> None:
    """Let an app in the folder `work` find what is in the folder `data`.

    Its folders appear in the working folder, except for names that are there already. If it is a cache of Hugging Face
    (a folder that was HF_HOME), their libraries use it, and do not ask the Hub.
    """
    caches = _caches(data)
    for folder in entries(data):
        if folder.is_dir() and not folder.name.startswith(".") and folder not in caches:
            with suppress(FileExistsError):
                (work / folder.name).symlink_to(folder)
    if caches:
        home = work.parent / "huggingface"
        if not (home / _DONE).exists():
            for cache in caches:
                _mirror(cache, home / cache.name)
            (home / _DONE).touch()
        os.environ |= {"HF_HOME": str(home), "HF_DATASETS_OFFLINE": "1"}
        if any(data.glob("hub/models--*")):
            os.environ["HF_HUB_OFFLINE"] = "1"


def _caches(data: Path) -> list[Path]:
    """Return the caches in a folder that was HF_HOME."""
    filled = any(data.glob("datasets/*/*/*/*/dataset_info.json")) or any(data.glob("hub/*--*/snapshots"))
    return [data / name for name in _CACHES if (data / name).is_dir()] if filled else []


def _mirror(cache: Path, copy: Path) -> None:
    """Make a folder like `cache`, with links to its files: the libraries lock what they read, and add to it."""
    for folder, _, names in os.walk(cache):
        here = copy / os.path.relpath(folder, cache)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not name.endswith(_LOCK):
                with suppress(FileExistsError):
                    (here / name).symlink_to(Path(folder, name))
