"""Count the batch norms that each tool leaves in a zoo of models, and measure the errors of the tools' results.

    python benchmarks/fold_zoo.py                 # takes hours, resumes; --only PATTERN, --limit SECONDS
    python benchmarks/fold_zoo.py --again         # measure edgekit's columns again, keep the peers': after a new rule
    python benchmarks/fold_zoo.py --summary       # the table, from the result file

Weights are random. All four tensors of every batch norm are randomised around the statistics of the norm's input, so that values
stay of order one. "Left" counts BatchNormalization nodes (for fx.fuse: batch norm modules still called). Errors are
max|y - r| / max|r| against the original model in float64; ONNX files run in ONNX Runtime, optimisations off. ONNX Runtime's own
optimiser runs at its "extended" level: the level above rewrites remaining batch norms as depthwise convolutions, which is another
pass over the data and no fold. The memory of folding is the growth of the resident set, folded copy included, over the weights'
size; glibc returns blocks beyond 64 kB to the system at once, so that only memory in use is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fnmatch
import io
import json
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RETURN_MEMORY = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
RESULTS = Path(__file__).parent / "results" / "fold_zoo.json"
PEERS = ("fx.fuse", "torch.onnx", "onnxslim", "onnxsim", "onnxruntime")
TIMM = tuple(
    """repvgg_a0 mobileone_s0 fastvit_t8 levit_128s efficientformer_l1 ghostnet_100 hrnet_w18_small dla34 cspresnet50
    rexnet_100 xception41 mixnet_s resnetv2_50 densenet121 inception_resnet_v2 inception_v4 edgenext_xx_small mobilevit_s
    coatnet_0_rw_224 maxvit_tiny_rw_224 crossvit_tiny_240 xcit_nano_12_p8_224 visformer_tiny efficientvit_b0 efficientvit_m0
    repghostnet_050 nfnet_l0 ese_vovnet19b_dw dpn48b selecsls42b convnext_atto regnetx_002 tinynet_e lcnet_050
    mobilenetv4_conv_small res2net50_26w_4s resnest14d skresnet18 botnet26t_256 gernet_s poolformer_s12
    mobilenetv3_small_100""".split()  # noqa: SIM905  # one word a model
)
SIZES = {"levit*": 224, "visformer*": 224, "coatnet*": 224, "maxvit*": 224, "crossvit*": 240, "xcit*": 224, "vit_*": 224,
         "efficientvit_m0": 224, "botnet*": 256, "efficientformer*": 224, "fastvit*": 256, "inception*": 96, "googlenet": 96,
         "swin*": 64, "mobilevit*": 256, "vit_h_14": 518, "lraspp*": 96, "nfnet*": 96}  # fmt: skip

# random networks of this depth with gammas near one are chaotic: float32 and float64 have no digit in common, even unfolded
CHAOTIC = "torchvision/efficientnet*"


def models() -> dict[str, str]:
    """Model name -> family."""
    import torchvision.models as zoo

    names = {f"torchvision/{name}": "classification" for name in zoo.list_models(module=zoo)}
    names |= {f"torchvision/{name}": "segmentation" for name in zoo.list_models(module=zoo.segmentation)}
    names |= {f"torchvision/{name}": "video" for name in zoo.list_models(module=zoo.video)}
    return names | {f"timm/{name}": "timm" for name in TIMM}


def build(name: str) -> tuple[Any, tuple[int, ...]]:
    """A model with random weights, and the shape of its input without the batch axis."""
    import torch

    torch.manual_seed(0)
    library, _, short = name.partition("/")
    size = next((size for pattern, size in SIZES.items() if fnmatch.fnmatch(short, pattern)), 64)
    if library == "timm":
        import timm

        return timm.create_model(short), (3, size, size)
    import torchvision.models as zoo

    family = models()[name]
    extra: dict[str, Any] = {"init_weights": True} if short in ("googlenet", "inception_v3") else {}
    if family == "segmentation":
        extra = {"weights_backbone": None}
    model = zoo.get_model(short, weights=None, **extra)
    frames = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}.get(short, (8, 64))
    return model, (3, frames[0], frames[1], frames[1]) if family == "video" else (3, size, size)


def randomise(model: Any, shape: tuple[int, ...], gain: float = 1.0) -> None:
    """Randomise all four tensors of each batch norm: statistics near the data's, gammas of both signs and mean size ``gain``."""
    import torch
    from torch import nn

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        for norm in norms:
            if norm.weight is not None:
                norm.weight.uniform_(0.5 * gain, 1.5 * gain).mul_(torch.where(torch.rand(norm.weight.shape) < 0.1, -1.0, 1.0))
                norm.bias.normal_(0, 0.3)
        if norms:
            model(torch.randn(8, *shape))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.add_(torch.randn(norm.running_mean.shape) * 0.3 * norm.running_var.sqrt())
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4)).add_(1e-6)
    model.eval()


def measure(name: str, *, own_only: bool = False) -> dict[str, Any]:
    """Measure a model with all tools, or with edgekit alone."""
    import torch

    from edgekit.fold import fold
    from edgekit.graphs.exact import run_exact
    from edgekit.graphs.trace import output_specs, run_module, tensors_of, trace
    from edgekit.graphs.write import export_onnx
    from edgekit.tensors import TensorSpec

    torch.set_num_threads(1)
    model, shape = build(name)
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 1e6
    if megabytes > 1200:
        return {"skipped": f"{megabytes:.0f} MB do not fit"}
    randomise(model, shape, gain=0.25 if fnmatch.fnmatch(name, CHAOTIC) else 1.0)
    inputs = (TensorSpec("input", "float32", ("batch", *shape)),)
    example = tensors_of(inputs, 2)
    first_use = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    fold(first_use, (TensorSpec("input", "float32", ("batch", 3, 8, 8)),))  # loads libraries, whose memory must not count
    started = time.perf_counter()
    with resident() as growth:
        graph, report = fold(model, inputs)
    seconds = time.perf_counter() - started
    reference = {key: value.numpy() for key, value in run_exact(model, trace(model, inputs), example).items()}
    remaining = sum(norm.nodes for norm in report.kept)
    before = remaining + sum(norm.nodes for norm in report.folded)
    reasons: dict[str, list[str]] = {}
    for norm in report.kept:
        key = " + ".join(f"{obstacle.side}: {obstacle.code}" for obstacle in norm.obstacles)
        reasons.setdefault(key, []).append(f"{norm.norm}: {norm.reason}")
    result: dict[str, Any] = {
        "model_mb": round(megabytes, 1), "before": before, "left": remaining,
        "written_out": len(report.folded) - before + remaining,
        "error_float64": report.error_float64, "seconds": round(seconds, 1),
        "memory_ratio": round(growth[0] / megabytes / 1e6, 2),
        "float32_error": error(run_module(model, example), reference), "error": error(run_module(graph, example), reference),
        "kept": {key: {"count": len(paths), "example": paths[0]} for key, paths in reasons.items()},
    }  # fmt: skip
    if not before:
        return result
    feed = {"input": example[0].numpy()}
    result["onnx_error"] = attempt(
        lambda: onnx_error(export_onnx(graph, report, inputs, output_specs(graph, inputs)), feed, reference)
    )
    return result if own_only else peers_too(result, model, example, reference)


def peers_too(result: dict[str, Any], model: Any, example: Any, reference: Any) -> dict[str, Any]:
    """``result`` with all peers; peers that read ONNX get edgekit's file without folding."""
    feed = {"input": example[0].numpy()}
    result["peers"] = {peer: {"failed": "not finished in time"} for peer in PEERS}
    print(json.dumps(result), flush=True)  # a partial result, in case a peer crashes or hangs
    result["peers"]["fx.fuse"] = attempt(lambda: fx_fuse(model, example, reference))
    program = attempt(lambda: torch_program(model, example, list(reference)))
    if isinstance(program, dict):  # the failure
        result["peers"] |= dict.fromkeys(PEERS[1:], program)
        return result
    content = plain(program)
    peers: dict[str, Callable[[], bytes]] = {
        "onnxruntime": lambda: ort_file(content),
        "onnxslim": lambda: onnxslim_file(content),
        "onnxsim": lambda: onnxsim_file(content),
        "torch.onnx": lambda: optimised(program),
    }
    for peer, file in peers.items():
        print(json.dumps(result), flush=True)
        result["peers"][peer] = attempt(lambda file=file: onnx_result(file(), feed, reference))  # type: ignore[misc]  # mypy does not infer defaults of a lambda
    return result


@contextlib.contextmanager
def resident() -> Iterator[list[float]]:
    """The largest growth of the resident set in bytes, sampled every 2 ms."""
    page, growth, done = resource.getpagesize(), [0.0], threading.Event()

    def now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    def sample(start: float) -> None:
        while not done.wait(0.002):
            growth[0] = max(growth[0], now() - start)

    thread = threading.Thread(target=sample, args=(now(),))
    thread.start()
    try:
        yield growth
    finally:
        done.set()
        thread.join()


def attempt(action: Callable[[], Any]) -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return action()
    except Exception as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()]
        return {"failed": f"{type(problem).__name__}: {lines[0][:200] if lines else ''}"}


def error(outputs: Any, reference: Any) -> float:
    """The largest error of scale of any output."""
    import numpy as np

    from edgekit.tensors import normalised_error

    return max(normalised_error(np.asarray(outputs[key]), reference[key]) for key in reference)


def onnx_error(content: bytes, feed: Any, reference: Any) -> float:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: feed["input"]})
    return error(dict(zip(reference, outputs, strict=False)), reference)


def onnx_result(content: bytes, feed: Any, reference: Any) -> dict[str, Any]:
    import onnx

    from edgekit.onnx.read import batch_norms

    return {"left": batch_norms(onnx.load_from_string(content)), "error": onnx_error(content, feed, reference)}


def fx_fuse(model: Any, example: Any, reference: Any) -> dict[str, Any]:
    import torch
    from torch.fx.experimental.optimization import fuse
    from torch.nn.modules.batchnorm import _BatchNorm

    from edgekit.graphs.trace import run_module

    fused: Any = fuse(copy.deepcopy(model))
    called = [node for node in fused.graph.nodes if node.op == "call_module"]
    remaining = sum(isinstance(fused.get_submodule(str(node.target)), _BatchNorm) for node in called)
    remaining += sum(node.target is torch.nn.functional.batch_norm for node in fused.graph.nodes)
    return {"left": remaining, "error": error(run_module(fused, example), reference)}


def torch_program(model: Any, example: Any, outputs: list[str]) -> Any:
    """The exporter's result before its optimiser has run."""
    import torch

    batch = {0: torch.export.Dim("batch")}
    return torch.onnx.export(
        copy.deepcopy(model), example, dynamo=True, verbose=False, optimize=False,
        dynamic_shapes=(batch,), opset_version=20, output_names=outputs,
    )  # fmt: skip


def plain(program: Any) -> bytes:
    """The exporter's file with edgekit's simplifications, which fold no batch norm."""
    import onnx_ir

    from edgekit.graphs.write import _simplified

    content: bytes = onnx_ir.to_proto(_simplified(onnx_ir.from_proto(program.model_proto))).SerializeToString()
    return content


def optimised(program: Any) -> bytes:
    """The file that ``torch.onnx.export`` writes by default."""
    program.optimize()
    content: bytes = program.model_proto.SerializeToString()
    return content


def onnxslim_file(content: bytes) -> bytes:
    import onnx
    import onnxslim

    slim: bytes = onnxslim.slim(onnx.load_from_string(content)).SerializeToString()
    return slim


def onnxsim_file(content: bytes) -> bytes:
    import onnx
    import onnxsim

    simplified: bytes = onnxsim.simplify(onnx.load_from_string(content))[0].SerializeToString()
    return simplified


def ort_file(content: bytes) -> bytes:
    import onnxruntime as ort

    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


def run_all(pattern: str, timeout: float, limit: float, path: Path, *, again: bool = False) -> None:
    """Measure each model in a process of its own; every result is written at once."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"models": {}}
    started = time.monotonic()
    for name in sorted(models(), key=cost):
        previous = results["models"].get(name, {})
        complete = "peers" in previous or previous.get("before") == 0
        if (not complete if again else bool(previous)) or not fnmatch.fnmatch(name, pattern):
            continue
        if time.monotonic() - started > limit:
            print(f"the limit of {limit:g} s is reached; run this again to continue")
            break
        command = [sys.executable, __file__, "--model", name, *["--again"] * again]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=RETURN_MEMORY)
            lines, problem = done.stdout.splitlines(), (done.stderr.strip() or "killed").splitlines()[-1][:300]
        except subprocess.TimeoutExpired as late:
            lines, problem = (late.stdout or b"").decode().splitlines(), f"not finished after {timeout:g} s"
        lines = [line for line in lines if line.startswith("{")]
        measured = json.loads(lines[-1]) if lines else {"skipped": problem}
        results["models"][name] = {**previous, **measured}
        results["models"] = dict(sorted(results["models"].items()))
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {measured.get('before')} -> {measured.get('left', measured.get('skipped'))}", flush=True)


def cost(name: str) -> tuple[bool, str]:
    """A sort key: large models, and models without batch norm, come last."""
    plain = ("alexnet", "squeezenet", "vit_", "swin", "mvit", "convnext")
    large = (
        "vgg",
        "regnet_y_1",
        "regnet_y_3",
        "wide",
        "152",
        "efficientnet_b7",
        "efficientnet_b6",
        "efficientnet_v2_l",
        "101_64",
    )
    return any(part in name for part in plain) or any(part in name for part in large), name


def summary() -> str:
    """Markdown: a table of the tools, and notes on models, errors, time and memory."""
    document = json.loads(RESULTS.read_text())
    results = document["models"]
    done = {name: result for name, result in results.items() if "left" in result}
    normed = {name: result for name, result in done.items() if result["before"]}
    rows = [
        "| tool | models it ran on | batch norms before | left | left by edgekit on the same | wrong results "
        "| failed or not finished in time |",
        "|---|---|---|---|---|---|---|",
        own_row(normed),
        *(peer_row(peer, normed) for peer in PEERS),
    ]
    best = {name: best_peer(result) for name, result in normed.items()}
    finished = [name for name, result in normed.items() if all("left" in peer for peer in result["peers"].values())]
    fewer = [name for name in finished if normed[name]["left"] < best[name]]
    more = [name for name, result in normed.items() if result["left"] > best[name]]
    skipped = {name: result["skipped"] for name, result in results.items() if "skipped" in result}
    lines = [
        f"{len(done)} models, {len(normed)} of them with batch norm. Where all peers finished ({len(finished)}), "
        f"edgekit leaves fewer than the best on {len(fewer)} "
        f"({', '.join(fewer) or '-'}), more on {len(more)} ({', '.join(more) or '-'}).",
        *numbers(done, normed),
    ]
    for why in sorted(set(skipped.values())):
        names = ", ".join(name for name, reason in skipped.items() if reason == why)
        lines.append(f"Not measured, {why}: {names}.")
    if "note" in document:
        lines.append(document["note"][0].upper() + document["note"][1:])
    return "\n".join([*rows, "", *(f"- {line}" for line in lines)])


def own_row(normed: dict[str, Any]) -> str:
    results = list(normed.values())
    before, after = (sum(result[key] for result in results) for key in ("before", "left"))
    failed = sum(not isinstance(result["onnx_error"], float) for result in results)
    wrong = sum(max(result["error"], worst(result["onnx_error"])) > limit(result) for result in results)
    return f"| **edgekit** | {len(normed)} | {before} | **{after}** | {after} | {wrong} | {failed} |"


def peer_row(peer: str, normed: dict[str, Any]) -> str:
    results = [result for result in normed.values() if "left" in result["peers"][peer]]
    before, ours = (sum(result[key] for result in results) for key in ("before", "left"))
    theirs = sum(result["peers"][peer]["left"] for result in results)
    wrong = sum(result["peers"][peer]["error"] > limit(result) for result in results)
    return f"| {peer} | {len(results)} | {before} | {theirs} | {ours} | {wrong} | {len(normed) - len(results)} |"


def best_peer(result: dict[str, Any]) -> int:
    """The fewest batch norms that a peer with a right result leaves in a model."""
    right = [peer for peer in result["peers"].values() if "left" in peer and peer["error"] <= limit(result)]
    return min((int(peer["left"]) for peer in right), default=int(result["before"]))


def numbers(done: dict[str, Any], normed: dict[str, Any]) -> Iterator[str]:
    float64 = max(result["error_float64"] or 0 for result in done.values())
    ours, original = (max(result[key] for result in normed.values()) for key in ("error", "float32_error"))
    yield (
        f"Folded against unfolded in float64: at most {float64:.0e} of the scale, inside the model too. In float32, against "
        f"float64: folded at most {ours:.0e}, original at most {original:.0e}."
    )
    large = sorted(result["memory_ratio"] for result in normed.values() if result["model_mb"] > 50)
    slowest = max(result["seconds"] for result in done.values())
    yield f"Folding took at most {slowest:.0f} s beside other work, tracing and proof included."
    if large:
        middle = large[len(large) // 2]
        yield (
            f"Memory that folding takes, over the weights' size, of models beyond 50 MB: {middle:.1f} (median), "
            f"at most {large[-1]:.1f}."
        )
    codes: Counter[str] = Counter()
    for result in normed.values():
        codes.update({key: part["count"] for key, part in result["kept"].items()})
    reasons = "; ".join(f"{key} ({count})" for key, count in codes.most_common())
    yield f"Kept because (norms written out as arithmetic included; docs/folding.md explains the codes): {reasons}."


def worst(value: Any) -> float:
    """``value`` if it is an error, or 0 for the failure of a tool, which has no error."""
    return value if isinstance(value, float) else 0.0


def limit(result: dict[str, Any]) -> float:
    """The error of scale beyond which a model's result is wrong."""
    return max(1e-3, 100 * float(result["float32_error"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="measure a model and print a line of JSON")
    parser.add_argument("--only", default="*", help="a pattern such as timm/*")
    parser.add_argument("--timeout", type=float, default=240, help="seconds per model")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further model is begun")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file, for two runs at once")
    parser.add_argument("--again", action="store_true", help="measure edgekit's columns again for the models in the result file")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.summary:
        print(summary())
    elif options.model:
        print(json.dumps(measure(options.model, own_only=options.again)))
    else:
        run_all(options.only, options.timeout, options.limit, options.results, again=options.again)


if __name__ == "__main__":
    main()
