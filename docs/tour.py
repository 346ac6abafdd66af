"""Run the tour and write what it prints between the markers of ``docs/tour.md``, so that the tour shown is one that was run.

python docs/tour.py        after edgekit run recipes/lenet.toml
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tour.md"
MARKERS = re.compile(r"(<!-- tour -->\n).*?(<!-- /tour -->)", re.DOTALL)
BOOT = """\
import numpy as np
from PIL import Image
golden = np.load('exported/lenet/golden.npz')['input.input'][0, 0]
Image.fromarray(((golden * 0.353 + 0.286) * 255).round().astype('uint8')).resize((200, 200)).save('boot.png')
"""
STEPS = (
    (
        "`edgekit run recipes/lenet.toml` trains, exports, verifies and times. A second time every step is skipped, because "
        "nothing has changed:",
        "run recipes/lenet.toml",
    ),
    ("Every backend on this machine is held against the recorded float64 outputs:", "verify exported/lenet"),
    (
        "Latency. Backends take turns, so that a drift of the machine hits all alike:",
        "bench exported/lenet --batch 1,32 --seconds 0.5",
    ),
    (
        "Pictures of any size go through the bundle's own preprocessing. This saves its first golden input as one:\n\n"
        f'```sh\npython -c "\n{BOOT}"\n```',
        "predict exported/lenet boot.png",
    ),
    ("What is in the file, and that no batch norm is left:", "inspect exported/lenet"),
    (
        "A model from elsewhere (here with random weights; `--weights` takes yours):",
        "export torchvision.models:mobilenet_v3_small --input-shape 1x3x224x224 --output {scratch}/mobilenet",
    ),
    (
        "A TensorRT engine (`pip install -e '.[rtx]'` first). The ONNX file decides the precision; the report says whether it "
        "was read off the built engine, which takes a GPU:",
        "build exported/lenet --output {scratch}/lenet.plan",
    ),
    ("And what works on this machine:", "doctor"),
)
SHOWN_LINES = 30


def shown(arguments: str, scratch: Path) -> str:
    """A command and what it prints, shortened where that is long."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb"}
    command = [sys.executable, "-m", "edgekit", *arguments.format(scratch=scratch).split()]
    done = subprocess.run(
        command, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    lines = [line.rstrip() for line in done.stdout.replace(f"{scratch}/", "").strip("\n").splitlines() if line.strip()]
    if len(lines) > SHOWN_LINES:
        lines = [*lines[:8], "...", *lines[-5:]]
    return "\n".join(["```console", f"$ edgekit {arguments.replace('{scratch}/', '')}", *lines, "```"])


def main() -> None:
    """Run every step in a folder of its own and write the page."""
    parts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in ("recipes", "exported", "runs"):
            (scratch / name).symlink_to(ROOT / name)
        subprocess.run([sys.executable, "-c", BOOT], cwd=scratch, check=True)
        for about, arguments in STEPS:
            parts += [about, "", shown(arguments, scratch), ""]
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKERS.sub(lambda match: match.group(1) + "\n".join(parts) + match.group(2), text), encoding="utf-8")


if __name__ == "__main__":
    main()
