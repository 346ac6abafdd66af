"""A PyTorch model as a graph: traced, run in float64, tabulated, written as ONNX, recorded."""
