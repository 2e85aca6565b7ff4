"""Where an app comes from: a folder, a bundle (.fab), or Flower Hub (@account/app). What is run is always a folder."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.cloud import fab
from oneflower.cloud.wording import flowers_error
from oneflower.events import Step
from oneflower.process import QUIET_FLOWER, run
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.use_cases import USE_CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower.events import Notify

_PROJECT = "pyproject.toml"


@contextmanager
def opened(name: str, flwr: Callable[[], Path], notify: Notify) -> Iterator[str]:
    """Yield the name of a pre-built app or a folder with the app. What is fetched or unpacked for it is removed again.

    `flwr` returns Flower's command. Raises `OneflowerError`.
    """
    path = Path(name).expanduser()
    if name in USE_CASES:
        yield name
        return
    with tempfile.TemporaryDirectory(prefix="oneflower-") as place:
        folder = Path(place)
        if name.startswith("@"):
            notify(Step(f"fetching {name} from Flower Hub"))
            yield str(_fetched(name, flwr(), folder))
        elif path.suffix == fab.SUFFIX and not path.is_dir():
            fab.unpack(path, folder)
            yield place
        else:
            yield str(path)


def _fetched(name: str, flwr: Path, folder: Path) -> Path:
    """Have Flower fetch an app into `folder`, and return where it is."""
    environment = QUIET_FLOWER | {"FLWR_HOME": str(folder / ".flwr"), "COLUMNS": "2000"}
    try:
        run([str(flwr), "new", name], "ask Flower Hub", "", os.environ | environment, apart_in=folder)
        [found] = folder.glob(f"[!.]*/{_PROJECT}")
    except OneflowerError as error:
        app = name.partition("==")[0].rpartition("/")[2]
        raise OneflowerError(
            f"{name} cannot be fetched from Flower Hub: {flowers_error(error.message)}",
            f"If this machine has no way there, run `flwr new {name}` where there is one, and name the folder that it "
            f"makes: `oneflower run ./{app}`.",
            ExitCode.ENVIRONMENT,
        ) from error
    except ValueError as error:
        raise OneflowerError(f"What Flower Hub has as {name} is not one app.", "", ExitCode.ENVIRONMENT) from error
    return found.parent
