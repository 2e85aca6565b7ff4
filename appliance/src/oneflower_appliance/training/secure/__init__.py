"""Secure aggregation: the SuperLink learns the sum of the nodes' updates, and no single one of them.

This is the protocol SecAgg of Bonawitz et al. (2017, https://doi.org/10.1145/3133956.3133982), in which every node
shares its secrets with every other node. Flower has it for its legacy API only, and expands its masks from 32 bits of
each secret. Here each round has four exchanges: `setup` (public keys), `share` (sealed shares of the secrets),
`collect` (training; the update comes back masked) and `unmask` (shares of what removes the masks from the sum).

`secrets` has keys and shares, `masks` the masks, `encoding` numbers modulo 2^32, `wire` what the messages are called,
`node` the node's side, `aggregation` the server's, `strategy` the strategy that puts it around another.
"""
