"""A client manager of the app's own that keeps an order, and FedMedian"""
from flwr.server import ServerApp, ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.strategy import FedMedian


class InOrder(SimpleClientManager):
    def sample(self, num_clients, min_num_clients=None, criterion=None):
        self.wait_for(min_num_clients or num_clients)
        chosen = [self.clients[cid] for cid in sorted(self.clients)][:num_clients]
        print(f"chose {len(chosen)} of {self.num_available()} clients")
        return chosen


def server_fn(context):
    return ServerAppComponents(
        strategy=FedMedian(), config=ServerConfig(num_rounds=2), client_manager=InOrder()
    )


app = ServerApp(server_fn=server_fn)
