"""Lines for other systems and other releases of Python, and dependency groups, which do not count here"""
#: dependencies = ["tomli; python_version < '3.8'", "pywin32; sys_platform == 'win32'", "toolz>=0.12; python_version >= '3.8'"]
#: more = "[project.optional-dependencies]\ndev = ['no-such-package-anywhere-1']"
import toolz
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print(list(toolz.sliding_window(2, [1, 2, 3])))
