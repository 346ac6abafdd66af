"""How many batch norms each tool leaves in a zoo of models, and whether what it writes is still right.

    python benchmarks/fold_zoo.py                 # hours; --only PATTERN, --limit SECONDS; takes up where it stopped
    python benchmarks/fold_zoo.py --again         # edgekit's own columns anew, the peers' as they are: after a new rule
    python benchmarks/fold_zoo.py --summary       # the table, from the result file

Weights are random and all four tensors of every batch norm are randomised around what its input really is, so that the values
stay of order one. "Left" counts BatchNormalization nodes (for fx.fuse: batch norm modules still called). Errors are
max|y - r| / max|r| against the original model in float64; ONNX files run in ONNX Runtime, optimisations off. ONNX
Runtime's own optimiser is asked for its "extended" level: one level higher it rewrites left batch norms as depthwise
convolutions, which is another pass over the data and no fold. The memory of folding is the growth of the resident set over the
weights' size, the folded copy included; glibc is told to give blocks beyond 64 kB back, so that what is counted is in use.
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

GIVE_BACK = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
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

# with gammas near one a random network this deep is chaotic: even unfolded, float32 has no digit in common with float64
CHAOTIC = "torchvision/efficientnet*"


def models() -> dict[str, str]:
    """Name -> family."""
    import torchvision.models as zoo

    names = {f"torchvision/{name}": "classification" for name in zoo.list_models(module=zoo)}
    names |= {f"torchvision/{name}": "segmentation" for name in zoo.list_models(module=zoo.segmentation)}
    names |= {f"torchvision/{name}": "video" for name in zoo.list_models(module=zoo.video)}
    return names | {f"timm/{name}": "timm" for name in TIMM}


def build(name: str) -> tuple[Any, tuple[int, ...]]:
    """A model with random weights and the shape of one input."""
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
    """All four tensors of each batch norm: the statistics near the data's, gamma of both signs and a mean size of ``gain``."""
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
    """One model, all tools, or edgekit alone."""
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
    fold(first_use, (TensorSpec("input", "float32", ("batch", 3, 8, 8)),))  # the libraries' own memory is not the fold's
    started = time.perf_counter()
    with resident() as growth:
        graph, report = fold(model, inputs)
    seconds = time.perf_counter() - started
    reference = {key: value.numpy() for key, value in run_exact(model, trace(model, inputs), example).items()}
    left = sum(kept.nodes for kept in report.kept)
    before = left + sum(one.nodes for one in report.folded)
    reasons: dict[str, list[str]] = {}
    for kept in report.kept:
        key = " + ".join(f"{one.side}: {one.code}" for one in kept.obstacles)
        reasons.setdefault(key, []).append(f"{kept.norm}: {kept.reason}")
    result: dict[str, Any] = {
        "model_mb": round(megabytes, 1), "before": before, "left": left, "written_out": len(report.folded) - before + left,
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
    """All peers; those that read ONNX are given what edgekit writes without folding."""
    feed = {"input": example[0].numpy()}
    result["peers"] = {peer: {"failed": "not finished in time"} for peer in PEERS}
    print(json.dumps(result), flush=True)  # what there is when a peer does not come back
    result["peers"]["fx.fuse"] = attempt(lambda: fx_fuse(model, example, reference))
    program = attempt(lambda: torch_program(model, example, list(reference)))
    if isinstance(program, dict):  # what failed
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
    """Bytes by which the resident set grows at most; sampled every 2 ms."""
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
    """Scale-normalised, the worst of all outputs."""
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

    left = batch_norms(onnx.load_from_string(content))
    return {"left": left, "error": onnx_error(content, feed, reference)}


def fx_fuse(model: Any, example: Any, reference: Any) -> dict[str, Any]:
    import torch
    from torch.fx.experimental.optimization import fuse
    from torch.nn.modules.batchnorm import _BatchNorm

    from edgekit.graphs.trace import run_module

    fused: Any = fuse(copy.deepcopy(model))
    called = [node for node in fused.graph.nodes if node.op == "call_module"]
    left = sum(isinstance(fused.get_submodule(str(node.target)), _BatchNorm) for node in called)
    left += sum(node.target is torch.nn.functional.batch_norm for node in fused.graph.nodes)
    return {"left": left, "error": error(run_module(fused, example), reference)}


def torch_program(model: Any, example: Any, outputs: list[str]) -> Any:
    """The exporter's result before its own optimiser."""
    import torch

    batch = {0: torch.export.Dim("batch")}
    return torch.onnx.export(
        copy.deepcopy(model), example, dynamo=True, verbose=False, optimize=False,
        dynamic_shapes=(batch,), opset_version=20, output_names=outputs,
    )  # fmt: skip


def plain(program: Any) -> bytes:
    """The exporter's file with edgekit's simplifications, none of which folds."""
    import onnx_ir

    from edgekit.graphs.write import _simplified

    content: bytes = onnx_ir.to_proto(_simplified(onnx_ir.from_proto(program.model_proto))).SerializeToString()
    return content


def optimised(program: Any) -> bytes:
    """What ``torch.onnx.export`` writes by default."""
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
    """Each model in a process of its own; every result is written at once."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"models": {}}
    started = time.monotonic()
    for name in sorted(models(), key=cost):
        known = results["models"].get(name, {})
        complete = "peers" in known or known.get("before") == 0
        if (not complete if again else bool(known)) or not fnmatch.fnmatch(name, pattern):
            continue
        if time.monotonic() - started > limit:
            print(f"the limit of {limit:g} s is reached; run again to go on")
            break
        command = [sys.executable, __file__, "--one", name, *["--again"] * again]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=GIVE_BACK)
            lines, problem = done.stdout.splitlines(), (done.stderr.strip() or "killed").splitlines()[-1][:300]
        except subprocess.TimeoutExpired as late:
            lines, problem = (late.stdout or b"").decode().splitlines(), f"not finished after {timeout:g} s"
        lines = [line for line in lines if line.startswith("{")]
        found = json.loads(lines[-1]) if lines else {"skipped": problem}
        results["models"][name] = {**known, **found}
        results["models"] = dict(sorted(results["models"].items()))
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {found.get('before')} -> {found.get('left', found.get('skipped'))}", flush=True)


def cost(name: str) -> tuple[bool, str]:
    """Those without batch norm last."""
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
    """Markdown: a table of the tools, and what a reader may ask next."""
    document = json.loads(RESULTS.read_text())
    found = document["models"]
    done = {name: one for name, one in found.items() if "left" in one}
    normed = {name: one for name, one in done.items() if one["before"]}
    rows = [
        "| tool | models it ran on | batch norms before | left | left by edgekit on the same | wrong results "
        "| failed or not finished in time |",
        "|---|---|---|---|---|---|---|",
        own_row(normed),
        *(peer_row(peer, normed) for peer in PEERS),
    ]
    best = {name: best_peer(one) for name, one in normed.items()}
    finished = [name for name, one in normed.items() if all("left" in peer for peer in one["peers"].values())]
    fewer = [name for name in finished if normed[name]["left"] < best[name]]
    more = [name for name, one in normed.items() if one["left"] > best[name]]
    skipped = {name: one["skipped"] for name, one in found.items() if "skipped" in one}
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
    total, left = (sum(one[key] for one in normed.values()) for key in ("before", "left"))
    failed = [one for one in normed.values() if not isinstance(one["onnx_error"], float)]
    wrong = [one for one in normed.values() if max(one["error"], worst(one["onnx_error"])) > limit(one)]
    return f"| **edgekit** | {len(normed)} | {total} | **{left}** | {left} | {len(wrong)} | {len(failed)} |"


def peer_row(peer: str, normed: dict[str, Any]) -> str:
    mine = [one for one in normed.values() if "left" in one["peers"][peer]]
    before, ours = (sum(one[key] for one in mine) for key in ("before", "left"))
    theirs = sum(one["peers"][peer]["left"] for one in mine)
    wrong = sum(one["peers"][peer]["error"] > limit(one) for one in mine)
    return f"| {peer} | {len(mine)} | {before} | {theirs} | {ours} | {wrong} | {len(normed) - len(mine)} |"


def best_peer(one: dict[str, Any]) -> int:
    """What the best peer leaves with a right result."""
    right = [peer for peer in one["peers"].values() if "left" in peer and peer["error"] <= limit(one)]
    return min((int(peer["left"]) for peer in right), default=int(one["before"]))


def numbers(done: dict[str, Any], normed: dict[str, Any]) -> Iterator[str]:
    float64 = max(one["error_float64"] or 0 for one in done.values())
    ours, original = (max(one[key] for one in normed.values()) for key in ("error", "float32_error"))
    yield (
        f"Folded against unfolded in float64: at most {float64:.0e} of the scale, inside the model too. In float32, against "
        f"float64: folded at most {ours:.0e}, original at most {original:.0e}."
    )
    large = sorted(one["memory_ratio"] for one in normed.values() if one["model_mb"] > 50)
    slowest = max(one["seconds"] for one in done.values())
    yield f"Folding took at most {slowest:.0f} s beside other work, tracing and proof included."
    if large:
        middle = large[len(large) // 2]
        yield (
            f"Memory that folding takes, over the weights' size, of models beyond 50 MB: {middle:.1f} (median), "
            f"at most {large[-1]:.1f}."
        )
    codes: Counter[str] = Counter()
    for one in normed.values():
        codes.update({key: part["count"] for key, part in one["kept"].items()})
    kept = "; ".join(f"{key} ({count})" for key, count in codes.most_common())
    yield f"Kept because (norms written out as arithmetic included; docs/folding.md explains the codes): {kept}."


def worst(value: Any) -> float:
    """Of an error, or of a tool that failed: nothing to compare."""
    return value if isinstance(value, float) else 0.0


def limit(one: dict[str, Any]) -> float:
    """Beyond it a result is wrong."""
    return max(1e-3, 100 * float(one["float32_error"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help="measure this model and print one JSON line")
    parser.add_argument("--only", default="*", help="a pattern such as timm/*")
    parser.add_argument("--timeout", type=float, default=240, help="seconds per model")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further model is begun")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file, for two runs at once")
    parser.add_argument("--again", action="store_true", help="edgekit's columns of what was measured before")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.summary:
        print(summary())
    elif options.one:
        print(json.dumps(measure(options.one, own_only=options.again)))
    else:
        run_all(options.only, options.timeout, options.limit, options.results, again=options.again)


if __name__ == "__main__":
    main()
