"""A `main` with Driver and DefaultWorkflow, and a wrapper of differential privacy around the strategy"""
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import Driver, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.server.workflow import DefaultWorkflow

from .task import get_weights, new_model

app = ServerApp()


@app.main()
def main(driver: Driver, context: Context) -> None:
    strategy = FedAvg(initial_parameters=ndarrays_to_parameters(get_weights(new_model())))
    private = DifferentialPrivacyServerSideFixedClipping(strategy, 1e-12, 0.7, num_sampled_clients=2)
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=private)
    DefaultWorkflow()(driver, legacy)
    print("loss of each round:", [(number, round(loss, 6)) for number, loss in legacy.history.losses_distributed])
