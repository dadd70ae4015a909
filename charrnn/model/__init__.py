"""The network: embedding, recurrent layers of one cell, output layer."""
