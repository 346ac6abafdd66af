"""ONNX files: read, run, folded, described."""
