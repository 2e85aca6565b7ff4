"""The shortest app: no initial parameters (a client is asked for them), a strategy without functions, `app` with arguments"""
from flwr.server import ServerApp, ServerConfig
from flwr.server.strategy import FedAvg

app = ServerApp(config=ServerConfig(num_rounds=2), strategy=FedAvg())
