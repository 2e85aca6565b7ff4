"""Packages that machines install before they are ready, from a bundle and without an index."""

from __future__ import annotations

import shutil
import zipfile

import pytest

pytestmark = pytest.mark.e2e

PROJECT = """
[project]
name = "greeter"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr[simulation]>=1.41", "numpy", "greeting>=1"]
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "greeter.server:app"
clientapp = "greeter.client:app"
"""

CLIENT = """
import greeting
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message, context):
    return Message(RecordDict({"said": ConfigRecord({"text": greeting.TEXT})}), reply_to=message)
"""

SERVER = """
import subprocess
import sys
import time
import greeting
import numpy
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    print([reply.content["said"]["text"] for reply in grid.send_and_receive(messages)])
    print(subprocess.run([sys.executable, "-c", "import greeting; print(greeting.TEXT, 'again')"],
                         capture_output=True, text=True, check=True).stdout)
"""


def stored_wheel(folder):
    """A package that is in no index. It has modules called like one of Python's and one of Flower's."""
    files = {
        "greeting.py": "TEXT = 'good morning'\n",
        "json.py": "raise ImportError('the wrong json')\n",
        "flwr/__init__.py": "raise ImportError('the wrong Flower')\n",
        "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\nRequires-Dist: numpy\n",
        "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir()
    record = "".join(f"{name},,\n" for name in [*files, "greeting-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(folder / "greeting-1.0-py3-none-any.whl", "w") as archive:
        for name, text in {**files, "greeting-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)


def plain_wheel(folder, name, release, needs):
    about = f"{name}-{release}.dist-info"
    files = {
        f"{name}.py": f"RELEASE = '{release}'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\nRequires-Dist: {needs}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{release}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{about}/RECORD": "".join(f"{path},,\n" for path in files)}.items():
            archive.writestr(path, text)


def write_app(folder, package):
    """Write the app, which needs one more package."""
    (folder / "greeter").mkdir(parents=True)
    for name, text in {"__init__": "", "server": f"import {package}\n{SERVER}", "client": CLIENT}.items():
        (folder / "greeter" / f"{name}.py").write_text(text)
    (folder / "pyproject.toml").write_text(
        PROJECT.replace('"greeting>=1"', f'"greeting>=1", "{package}"').replace('"greeter"', f'"{folder.name}"')
    )


def test_machines_install_a_bundle_before_they_are_ready(newcomer):
    user = newcomer
    index, app = user.folder / "index", user.folder / "greeter"
    stored_wheel(index)
    for name, text in {"__init__": "", "server": SERVER, "client": CLIENT}.items():
        (app / "greeter").mkdir(parents=True, exist_ok=True)
        (app / "greeter" / f"{name}.py").write_text(text)
    (app / "pyproject.toml").write_text(PROJECT)
    bundled = user("bundle", str(app), "--save", "wheels", PIP_FIND_LINKS=str(index))
    shutil.rmtree(index)
    packages = bundled.stdout.rpartition("FL_PACKAGES=")[2].strip().strip("'")
    wheels = f"FL_PACKAGE_INDEX={user.folder / 'wheels'}"
    wrong = user("up", "lab", "--set", wheels, "--set", f"FL_PACKAGES=packages.txt --hash=sha256:{'0' * 64}", code=7)
    assert "is not the list that was asked for" in wrong.stderr
    user("down", "lab")
    user("up", "lab", "--set", wheels, "--set", f"FL_PACKAGES={packages}", "--set", "FL_EXECUTION=warm")
    assert ", greeting 1.0 and " in user("show", "lab").stdout
    done = user("run", str(app), "-f", "lab")
    assert "['good morning', 'good morning']" in done.stderr
    assert "good morning again" in done.stderr

    # What an app installs besides must fit what the machines have.
    index.mkdir()
    for name, release, needs in (
        ("greeting", "1.0", "numpy"), ("greeting", "2.0", "numpy"), ("loud", "1.0", "greeting>=2"), ("quiet", "1.0", "greeting"),
    ):  # fmt: skip
        plain_wheel(index, name, release, needs)
    for name in ("loud", "quiet"):
        write_app(user.folder / f"{name}-greeter", name)
    refused = user("run", "loud-greeter", "-f", "lab", "--install", code=None, PIP_FIND_LINKS=str(index))
    assert refused.returncode != 0
    assert "greeting>=2" in refused.stderr
    assert "greeting==1.0" in refused.stderr
    done = user("run", "quiet-greeter", "-f", "lab", "--install", PIP_FIND_LINKS=str(index))
    assert "['good morning', 'good morning']" in done.stderr
