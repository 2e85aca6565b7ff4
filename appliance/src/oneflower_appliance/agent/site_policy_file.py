"""Where a SuperNode's machine has the policy of its site: in a file of root's, or in FL_SITE_POLICY."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.site_policy import PATH, SitePolicy, read_text

if TYPE_CHECKING:
    from oneflower_appliance.values import Settings

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def site_policy(settings: Settings, path: Path = Path(PATH)) -> SitePolicy | None:
    """Return the policy of this machine, None if there is none.

    Raises `OneflowerError` if it is not valid, cannot be read, or could be written by others than root.
    """
    given = settings.text("FL_SITE_POLICY")
    try:
        owner = path.stat()
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return SitePolicy.parse(read_text(given)) if given else None
    except (OSError, ValueError) as error:
        raise OneflowerError(
            f"The policy of this site in {path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Make it a text file that everybody may read.",
            ExitCode.ENVIRONMENT,
        ) from error
    if owner.st_uid or owner.st_mode & _OTHERS_WRITE:
        raise OneflowerError(
            f"Others than root may write the policy of this site: {path}.",
            f"Run `chown root {path}` and `chmod 644 {path}`.",
            ExitCode.ENVIRONMENT,
        )
    if given:
        raise OneflowerError(
            f"This machine has two policies of its site: {path} and FL_SITE_POLICY.",
            "Remove one of them.",
            ExitCode.CONFLICT,
        )
    return SitePolicy.parse(text)
