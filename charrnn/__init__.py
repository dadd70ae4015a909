"""Train character-level recurrent language models; export them; sample from them anywhere.

The command line is ``charrnn``; to embed a model in a program, use the
package ``charrnn_runtime``, which needs no torch.
"""

__version__ = "0.1.0"
