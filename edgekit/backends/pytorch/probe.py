"""A child that imports PyTorch and answers what it would really run on: ``python -m edgekit.backends.pytorch.probe``."""

from __future__ import annotations

from edgekit.machine.child import answer


def main() -> None:
    """Answer the version, the CUDA that it is built for, and the GPU that it finds."""
    import torch

    cuda = torch.cuda.is_available()
    answer(
        {
            "version": str(torch.__version__),
            "cuda": cuda,
            "built": torch.version.cuda,
            "device": torch.cuda.get_device_name(0) if cuda else "",
        }
    )


if __name__ == "__main__":
    main()
