"""Differential privacy: a wrapper that clips on the server, with noise too small to be seen"""
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from .task import get_weights, new_model

app = ServerApp()


@app.main()
def main(grid, context):
    private = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=1e-12, clipping_norm=0.7, num_sampled_clients=2
    )
    private.start(grid=grid, initial_arrays=ArrayRecord(get_weights(new_model())), num_rounds=2, timeout=600)
