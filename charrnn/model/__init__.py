"""The network: forward over sequences, weights, cells."""
