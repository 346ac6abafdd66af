"""What the fakes of TensorRT's objects have in common: only names that the listing of a flavour has exist."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from tests.trt_listing import Listing

if TYPE_CHECKING:
    from tests.fake_trt import FakeTensorRT

KINDS = {
    "Conv": "CONVOLUTION", "Gemm": "MATRIX_MULTIPLY", "Relu": "ACTIVATION", "Sigmoid": "ACTIVATION", "MaxPool": "POOLING",
    "Add": "ELEMENTWISE", "Concat": "CONCATENATION", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE",
    "Cast": "CAST",
}  # fmt: skip
TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
}  # fmt: skip


def called(node: Any) -> str:
    """As the parser calls it."""
    return str(node.name or f"node_of_{node.output[0]}")


class Strict:
    """Only what the listing names exists; names with an underscore are the fake's own."""

    _listing: ClassVar[Listing]
    _kind: ClassVar[str]
    _fake: ClassVar[FakeTensorRT]

    def __getattribute__(self, name: str) -> Any:
        kind = type(self)._kind
        if not name.startswith("_") and not self._listing.has(kind, name) and not self._own(name):
            raise AttributeError(f"TensorRT {self._listing.version}: {kind} has no {name}")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not self._listing.has(type(self)._kind, name) and not self._derived():
            raise AttributeError(f"TensorRT {self._listing.version}: {type(self)._kind} has no {name}")
        super().__setattr__(name, value)

    @classmethod
    def _derived(cls) -> bool:
        return not cls.__module__.startswith("tests.")

    @classmethod
    def _own(cls, name: str) -> bool:
        return cls._derived()


class ILogger(Strict):
    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError

    def _error(self, text: str) -> None:
        self.log(types.SimpleNamespace(name="ERROR"), text)
