"""Apps on Flower's legacy API, `flwr.server`: they are recorded and supervised as those on the Message API are."""
