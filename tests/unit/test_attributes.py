"""Every published attribute is declared in one place, from which both ends, the proof and the docs take it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import oneflower_appliance

ROOT = Path(__file__).parent.parent.parent
APPLIANCE = Path(oneflower_appliance.__file__).parent
ENTRY = 'HEAT = Attribute("FL_HEAT", _LINK, Coding.BASE64, "How warm it is", proven=True)\n'

TRY = """
import http.server
import importlib.util
import sys
import threading
import oneflower_appliance
assert oneflower_appliance.__file__.startswith(sys.argv[1])
from oneflower_appliance import attributes
from oneflower_appliance.agent.onegate import OneGate
from oneflower_appliance.proof import proves
spec = importlib.util.spec_from_file_location("generate_docs", sys.argv[2])
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)

sent = []

class Server(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_PUT(self):
        sent.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
gate = OneGate(f"http://127.0.0.1:{server.server_port}", "token", "7")
published = gate.prove({attributes.HEAT.name: attributes.HEAT.write('"23 °C", [inside]')})
gate.publish(published)
assert "FL_HEAT=" in sent[0], "an agent publishes it"
assert attributes.HEAT.read(published) == '"23 °C", [inside]', "a client reads it"
assert proves("token", 7, published)
assert not proves("token", 7, published | {"FL_HEAT": attributes.HEAT.write("99")}), "nobody else can write it"
assert "| `FL_HEAT` | SuperLink | base64 | How warm it is" in docs.attributes_table()
"""


def test_an_entry_makes_an_attribute(tmp_path):
    package = tmp_path / "packages" / "oneflower_appliance"
    shutil.copytree(APPLIANCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    table = package / "attributes.py"
    head, mark, tail = table.read_text().partition("ATTRIBUTES: dict")
    table.write_text(head + ENTRY + mark + tail)
    environment = os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", TRY, str(package.parent), str(ROOT / "scripts/generate_docs.py")]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
