"""Graphs of PyTorch models: tracing, running in float64, tabulating, writing as ONNX, recording golden outputs."""
