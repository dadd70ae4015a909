"""A playground and an OpenAI-like API over charrnn model files.

    python -m charrnn_server model.onnx        (or: charrnn serve model.onnx)

Knows charrnn_runtime, FastAPI and uvicorn; never torch, never the trainer.
"""
