"""loguru and tqdm: lines and a progress bar on standard error"""
#: dependencies = ["loguru", "tqdm"]
import sys

from flwr.serverapp import ServerApp
from loguru import logger
from tqdm import tqdm

app = ServerApp()
logger.remove()
logger.add(sys.stdout, format="{level}: {message}")


@app.main()
def main(grid, context):
    logger.info("beginning")
    for _ in tqdm(range(3), desc="work", file=sys.stdout, bar_format="{desc}: {n_fmt}/{total_fmt}"):
        pass
    logger.success("done")
