"""Installed as ``charrnn.data``: the catalogue of known corpora, nothing else."""
