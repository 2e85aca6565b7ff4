"""A node's instructions: JSON Lines files of its own, or its share of a data set from the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneflower_appliance.training.data import DataError, data_folder, hold_out, partition_of, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flwr.app import Context, Message

_ENDING = ".jsonl"
_HELD_OUT = 0.1
# What a line may have: the keys of the question, then those of the answer.
_LAYOUTS = (
    (("instruction", "input"), "output"),
    (("instruction", "context"), "response"),
    (("prompt",), "completion"),
    ((), "text"),
)


@dataclass(frozen=True)
class Example:
    """What the model is asked, and what it should answer. It learns only the answer."""

    question: str
    answer: str


def load(context: Context, message: Message | None = None) -> tuple[list[Example], list[Example], str]:
    """Return the examples to train on, those to test on, and their source. Raises `DataError`."""
    config, folder = context.run_config, data_folder(context)
    if folder is None:
        number, count = partition_of(context, message)
        everything = list(_read(_download(str(config["hub-data"]))))
        mine = share(np.zeros(len(everything), dtype=np.int64), number, count, 0.0, int(config["seed"]))
        found, source = [everything[index] for index in mine], str(config["hub-data"])
    else:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == _ENDING)
        if not paths:
            raise DataError(f"The data folder {folder} has no JSON Lines file (*{_ENDING}).", "Put one there.")
        found, source = [example for path in paths for example in _read(path)], "own instructions"
    if len(found) < 2:
        raise DataError(f"This node has {len(found)} examples.", "Give it at least two.")
    trained, held = hold_out(len(found), _HELD_OUT, int(config["seed"]))
    return [found[index] for index in trained], [found[index] for index in held], source


def _read(path: Path) -> Iterator[Example]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _example(json.loads(line), f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Fix or remove that file.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}, is not valid JSON: {error.msg}.", "Write one JSON object per line."
        ) from error


def _example(entry: Any, where: str) -> Example:
    if isinstance(entry, dict):
        for asked, answer in _LAYOUTS:
            if isinstance(entry.get(answer), str) and all(isinstance(entry.get(key), str) for key in asked[:1]):
                return Example(_question(entry, asked), entry[answer])
    layouts = "; ".join(", ".join([*asked[:1], answer]) for asked, answer in _LAYOUTS)
    raise DataError(f"{where}: it has no example.", f"Give each line the keys of one of these: {layouts}.")


def _question(entry: Mapping[str, str], keys: tuple[str, ...]) -> str:
    parts = [entry[key] for key in keys if entry.get(key)]
    return "\n\n".join(["### Instruction:", *parts, "### Response:\n"]) if parts else ""


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - not needed by a node with data of its own

    owner, project, *rest = name.split("/")
    try:
        return Path(hf_hub_download(f"{owner}/{project}", "/".join(rest), repo_type="dataset"))
    except Exception as error:  # whatever it is, there is no data
        raise DataError(
            f"This node has no data folder, and {name} cannot be downloaded: {str(error).splitlines()[0]}",
            "Put JSON Lines files in its data folder (FL_DATA_PATH), or let it reach the Hugging Face hub.",
        ) from error
