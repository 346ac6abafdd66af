"""ONNX files: reading, running, folding and describing them."""
