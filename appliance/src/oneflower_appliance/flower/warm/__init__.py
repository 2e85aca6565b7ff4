"""Warm execution (FL_EXECUTION=warm): rounds that take little more time than their work, on unmodified Flower.

Stock Flower starts a Python interpreter for each task and lets every process poll every few seconds. Here the SuperExec
has already imported Flower and the framework, and forks for each task (`superexec`, `tasks`). A request that has no
answer yet is held until it has one (`longpoll` in the server, `waits` in the client). This uses Flower's own executor
interface, interceptors and ASGI applications. The names in Flower that must be replaced are in `flower.places`.
"""

import os

from oneflower_appliance.orders import EXECUTION_VARIABLE


def is_wanted() -> bool:
    """Return whether tasks are to be executed warm."""
    return os.environ.get(EXECUTION_VARIABLE) == "warm"
