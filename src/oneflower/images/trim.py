"""What is taken out of an image because no machine of ours uses it. Copyright files always stay.

Of some wheels, what only a debugger of C code reads is taken out, too. Not of all: libraries that auditwheel has
changed (`*.libs`), OpenBLAS above all, do not survive it, and the large ones come without it.
"""

from __future__ import annotations

import csv
import shutil
from typing import TYPE_CHECKING

from oneflower.images.tools import tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEBIAN = (
    "usr/lib/udev/hwdb.*", "usr/lib/x86_64-linux-gnu/gconv/*", "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/test", "usr/lib/python3*/lib2to3", "usr/lib/python3*/ensurepip", "usr/lib/python3*/idlelib",
    "usr/lib/python3*/turtledemo", "usr/lib/python3*/config-*", "usr/share/common-licenses/*.gz", "var/cache/*",
    "var/log/*.log", "var/log/apt", "var/lib/apt/lists/*", "usr/share/i18n", "boot/System.map*",
    "usr/share/perl5", "var/lib/dpkg/status-old", "var/lib/dpkg/info/*.md5sums",
)  # fmt: skip

_SITE = "opt/oneflower/lib/python3*/site-packages/"
_PYTHON = (
    "*/tests", "*/*/tests", "*/*/*/tests", "*/test", "numpy/**/tests", "scipy/**/tests", "pyarrow/include",
    "pyarrow/src", "pyarrow/libarrow_flight*", "pyarrow/_flight*", "pyarrow/libarrow_s3*", "pyarrow/_s3fs*",
    "pyarrow/libarrow_python.so", "pyarrow/libarrow_python.so.*.*.*", "Crypto/SelfTest", "sqlalchemy/testing",
    "**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.pyx.tp", "**/*.pyi", "**/*.h", "**/*.hpp", "**/*.c", "PIL/_avif*",
    "pillow.libs/libavif*", "pyarrow/_orc*", "pyarrow/_hdfs*", "pyarrow/_gcsfs*", "pyarrow/_azurefs*",
    "numpy/_core/_simd*", "numpy/distutils", "pyarrow/libarrow_python_flight*",
    "pyarrow/_pyarrow_cpp_tests*", "pyarrow/tests", "pyarrow/includes", "torch/include",
    "torch/test", "torch/share", "torch/bin/protoc*", "torch/bin/test*", "torch/bin/*Test", "torch/lib/*.a",
    "torch/lib/libtorchbind_test*", "torch/testing/_internal/opinfo",
    "torch/testing/_internal/common_m*.py", "torch/testing/_internal/generated", "torch/_vendor/quack",
    "torch/testing/_internal/distributed/rpc", "sympy/**/benchmarks",
    "transformers/models/*/modular_*.py", "tensorflow/include", "numpy/_core/include", "numpy/_core/lib", "share",
)  # fmt: skip
# What names the machine and the time of the installation.
_TRACES = (
    "bin", "*.dist-info/direct_url.json", "*.dist-info/uv_cache.json", "*.dist-info/REQUESTED", "*/__pycache__",
)  # fmt: skip
# scikit-learn, NumPy, SciPy and PyTorch import parts of their own tests: `sklearn.utils._testing`, `torch.testing`.
_STAYS = ("torch/testing", "numpy/testing", "sklearn/utils/_testing.py")
_WITH_SYMBOLS = ("uvloop", "httptools", "sqlalchemy", "greenlet", "yaml", "Crypto", "PIL", "wcwidth")


def debian(root: Path) -> None:
    """Take out what Debian packages brought."""
    _remove(root, DEBIAN)


def python(root: Path) -> None:
    """Take out what wheels brought."""
    _remove(root, [_SITE + path for path in (*_PYTHON, *_TRACES)])
    libraries = {path for name in _WITH_SYMBOLS for path in root.glob(f"{_SITE}{name}/**/*.so")}
    if libraries:
        tool(["strip", "--strip-debug", "--preserve-dates", *sorted(libraries)], "take out debugging information")
    for record in root.glob(f"{_SITE}*.dist-info/RECORD"):
        _correct(record, libraries)


def traces(root: Path) -> None:
    """Take out what names the machine and the time of the installation, of wheels that stay whole."""
    _remove(root, [_SITE + path for path in _TRACES])
    for record in root.glob(f"{_SITE}*.dist-info/RECORD"):
        _correct(record, set())


def _correct(record: Path, changed: set[Path]) -> None:
    """Take from the list of a wheel's files what is gone, and the digests of those that changed.

    The digests of its commands also go: they name the Python of the machine that builds.
    """
    site = record.parent.parent
    with record.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row and (site / row[0]).is_file()]
    with record.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([row[0], "", ""] if site / row[0] in changed else row for row in rows)


def _remove(root: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            if any(str(path).endswith(kept) for kept in _STAYS):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
