"""Writes handwritten digits as images of four sites that differ in how they look: the same digits, another scanner.

    python -m scripts.shifted_digits FOLDER [SHARE]

`FOLDER/0` to `FOLDER/3` have a folder for each digit, as image classification reads them. Every site has its own part
of the digits that scikit-learn ships, all ten classes alike, and SHARE of it (1.0 is everything).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Pixels are from 0 (paper) to 1 (ink).
LOOKS: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "as scanned": lambda image, _: image,
    "pale": lambda image, _: 0.15 * image,
    "grey paper": lambda image, _: 0.5 + 0.2 * image,
    "dark and noisy": lambda image, rng: 0.7 + 0.3 * image + rng.normal(0, 0.05, image.shape),
}


def write(folder: Path, share: float = 1.0, seed: int = 7) -> None:
    """Write the images of all sites."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    for site, (indices, look) in enumerate(zip(np.array_split(order, len(LOOKS)), LOOKS.values(), strict=True)):
        rng = np.random.default_rng(seed + site)
        for index in indices[: int(share * len(indices))]:
            image = np.clip(look(pixels[index].reshape(8, 8) / 16, rng), 0, 1)
            place = folder / str(site) / str(labels[index])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 255).astype(np.uint8)).save(place / f"{index}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(float, sys.argv[2:3]))
