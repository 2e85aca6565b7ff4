"""The pre-built apps that FL_USE_CASE selects: each folder here is a normal Flower app for `flwr run`."""
