"""Run the commands of the tour and write their output between the markers of ``docs/tour.md``.

python docs/tour.py           rewrites the page; after edgekit run recipes/lenet.toml, with the extras train, cpu and rtx
python docs/tour.py --check   exits with 1 if the page shows other commands, or other columns than the quick ones print now
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arguments import asked_to_check

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
    ("Every backend on this machine is compared with the recorded float64 outputs:", "verify exported/lenet"),
    (
        "How often the answer is right, on the test set that the bundle was trained with, and against what the manifest records:",
        "evaluate exported/lenet",
    ),
    (
        "Latency. Backends take turns, so that a drift of the machine affects all of them alike:",
        "bench exported/lenet --batch 1,32 --seconds 0.5",
    ),
    (
        "Pictures of any size go through the bundle's own preprocessing. This saves the first golden input as a picture:\n\n"
        f'```sh\npython -c "\n{BOOT}"\n```',
        "predict exported/lenet boot.png",
    ),
    ("The layers in the file; no batch norm is left:", "inspect exported/lenet"),
    (
        "A model from elsewhere (here with random weights; `--weights` takes yours):",
        "export torchvision.models:mobilenet_v3_small --input-shape 1x3x224x224 --output {scratch}/mobilenet",
    ),
    (
        "A TensorRT engine (`pip install -e '.[rtx]'` first). The ONNX file decides the precision; the report says whether the "
        "precision was read off the built engine, which needs a GPU:",
        "build exported/lenet --output {scratch}/lenet.plan",
    ),
    ("The packages and backends that work on this machine:", "doctor"),
)
SHOWN_LINES = 30
QUICK = ("verify", "bench", "predict", "inspect", "doctor")
"""Commands that ``--check`` runs: numbers differ from run to run and from machine to machine, the columns of tables do not."""
LINE = re.compile("^ *─+$")


def printed(arguments: str, scratch: Path) -> str:
    """All that a command prints, in a process of its own."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb"}
    command = [sys.executable, "-m", "edgekit", *arguments.format(scratch=scratch).split()]
    return subprocess.run(
        command, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout


def shown(arguments: str, scratch: Path) -> str:
    """A command and its output, shortened if the output is long."""
    lines = [line.rstrip() for line in printed(arguments, scratch).replace(f"{scratch}/", "").strip("\n").splitlines()]
    if len(lines) > SHOWN_LINES:
        lines = [*lines[:8], "...", *lines[-5:]]
    return "\n".join(["```console", f"$ edgekit {arguments.replace('{scratch}/', '')}", *lines, "```"])


def headings(output: str) -> list[str]:
    """The heading of each table in what a command prints: the line above a rule, with single blanks."""
    lines = output.splitlines()
    return [" ".join(lines[index - 1].split()) for index, line in enumerate(lines) if LINE.match(line)]


def differences(page: str, scratch: Path) -> list[str]:
    """What the page shows that is no longer so: commands, and columns of those that are quick."""
    blocks = re.findall(r"```console\n\$ edgekit (.*?)\n(.*?)```", page, re.DOTALL)
    commands = [arguments.replace("{scratch}/", "") for _, arguments in STEPS]
    if [arguments for arguments, _ in blocks] != commands:
        return [f"it shows other commands than: {', '.join(commands)}"]
    wrong = []
    for arguments, output in blocks:
        if arguments.split()[0] in QUICK:
            faster = arguments.replace("--seconds 0.5", "--seconds 0.05")
            now = headings(shown(faster, scratch))
            if headings(output) != now:
                wrong.append(f"edgekit {arguments}: the columns are {now}, and the page has {headings(output)}")
    return wrong


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder with the repository's recipes, bundles and runs, and the picture."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in ("recipes", "exported", "runs"):
            (scratch / name).symlink_to(ROOT / name)
        subprocess.run([sys.executable, "-c", BOOT], cwd=scratch, check=True)
        yield scratch


def main() -> None:
    """Run every command in a temporary folder and write the page, or check it."""
    checking = asked_to_check(__doc__)
    text = PAGE.read_text(encoding="utf-8")
    with scratch_folder() as scratch:
        if checking:
            wrong = differences(text, scratch)
            sys.exit("\n".join(f"docs/tour.md: {line}; run python docs/tour.py" for line in wrong) or None)
        parts: list[str] = []
        for about, arguments in STEPS:
            parts += [about, "", shown(arguments, scratch), ""]
    PAGE.write_text(MARKERS.sub(lambda match: match.group(1) + "\n".join(parts) + match.group(2), text), encoding="utf-8")


if __name__ == "__main__":
    main()
