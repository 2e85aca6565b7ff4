"""A node's images: its own, in a folder for each class, or its share of the digits that scikit-learn ships."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from image_classification import shipped
from oneflower_appliance.training.data import DataError, data_folder, hold_out, partition_of, share
from oneflower_appliance.volumes import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flwr.app import Context, Message

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_HELD_OUT = 0.2
_NAMED = 5  # the number of unreadable files that are named
DIGITS = tuple(str(digit) for digit in range(10))
DIGITS_SHAPE = (8, 8, 1)


@dataclass(frozen=True)
class Images:
    """Images, read when they are needed, and their classes as numbers, shape (n,).

    `batch` takes indices, shape (k,), and returns pixels from 0 to 1, shape (k, height, width, channels).
    """

    batch: Callable[[Integers], Floats]
    labels: Integers

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Integers) -> Images:
        """Return a part of them."""
        return Images(lambda wanted: self.batch(indices[wanted]), self.labels[indices])


@functools.cache
def digits(seed: int) -> tuple[Images, Images]:
    """Return the training set (80 %) and the test set (20 %) of the digits, stratified: 1,797 images of 8 x 8."""
    pixels, labels = shipped.digits()
    pixels = (pixels / 16.0).reshape(-1, *DIGITS_SHAPE)
    train, test = (Images(pixels[part].__getitem__, labels[part]) for part in shipped.split(labels, _HELD_OUT, seed))
    return train, test


def own_classes(context: Context) -> list[str] | None:
    """Return the names of the classes in this node's data folder, or None if it has none. Raises `DataError`."""
    folder = data_folder(context)
    if folder is None:
        return None
    classes = [path.name for path in entries(folder) if path.is_dir() and _files(path)]
    if not classes:
        raise DataError(
            f"The data folder {folder} has no images in a folder for each class.",
            f"Arrange them as {folder}/CLASS/IMAGE ({', '.join(_ENDINGS)}).",
        )
    return classes


def load(context: Context, classes: list[str], message: Message | None = None) -> tuple[Images, Images]:
    """Return what this node trains on and what it tests on; labels are positions in `classes`. Raises `DataError`."""
    config = context.run_config
    seed = int(config["seed"])
    folder = data_folder(context)
    if folder is None:
        number, count = partition_of(context, message)
        train, test = digits(seed)
        alpha = float(config["dirichlet-alpha"])
        mine, tested = (part.take(share(part.labels, number, count, alpha, seed)) for part in (train, test))
        return mine, tested
    paths = [(path, label) for label, name in enumerate(classes) for path in _files(folder / name)]
    everything = _from_files([path for path, _ in paths], [label for _, label in paths], int(config["image-size"]))
    if len(everything) < 2:
        raise DataError(f"The data folder {folder} has only one image.", "Give this node at least two.")
    trained, held = hold_out(len(everything), _HELD_OUT, seed)
    return everything.take(trained), everything.take(held)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)


def check_files(context: Context) -> None:
    """Read every image in this node's data folder. Raises `DataError` naming those that cannot be read."""
    folder, size = data_folder(context), int(context.run_config["image-size"])
    reasons = []
    for path in (path for name in own_classes(context) or () for path in _files(folder / name)) if folder else ():
        try:
            _pixels(path, size)
        except DataError as error:
            reasons.append(error.message)
    if reasons:
        more = f" And {len(reasons) - _NAMED} more." if len(reasons) > _NAMED else ""
        raise DataError(" ".join(reasons[:_NAMED]) + more, "Replace or remove these files.")


def _pixels(path: Path, size: int) -> Floats:
    from PIL import Image  # noqa: PLC0415 - not needed for the digits

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size)), dtype=np.float32) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}.", "Replace or remove that file.") from error


def _from_files(paths: list[Path], labels: list[int], size: int) -> Images:
    return Images(
        lambda indices: np.stack([_pixels(paths[index], size) for index in indices]), np.asarray(labels, dtype=np.int64)
    )
