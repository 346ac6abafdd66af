"""TensorRT's packages and its engine cache, for ``edgekit doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from edgekit.backends.tensorrt.flavour import Flavour, flavour_of, how_to_install, installed, known_versions, unknown_gpu
from edgekit.errors import OutputError
from edgekit.machine.gpu import cuda_absence, gpu_facts
from edgekit.machine.packages import Examined, Package, for_gpus, version_of
from edgekit.setups import Absence

_PROBE = "edgekit.backends.tensorrt.probe"


def engine_cache() -> dict[str, str]:
    """How many engines the cache has, and where: one is found again only by what fits, and may be deleted at any time."""
    from edgekit.backends.tensorrt.engines import engine_folder

    try:
        folder = engine_folder()
    except OutputError as problem:
        return {"engine cache": f"none: {problem}"}
    try:
        sizes = [plan.stat().st_size for plan in folder.iterdir() if plan.suffix == ".plan" and plan.is_file()]
    except FileNotFoundError:
        return {}
    except OSError as problem:  # a file, or somebody else's: no engine would be found or kept
        return {"engine cache": f"none: {folder}: {problem.strerror}; let EDGEKIT_CACHE name a folder of yours"}
    engines = "1 engine" if len(sizes) == 1 else f"{len(sizes)} engines"
    return {"engine cache": f"{engines}, {sum(sizes) / 1e6:.1f} MB in {folder}"} if sizes else {}


def _cuda_bindings_absence() -> Absence | None:
    """The command that installs TensorRT for the driver's version of CUDA."""
    if version_of("cuda-bindings"):
        return None
    release = gpu_facts().get("cuda driver", "").partition(".")[0]
    return Absence(
        "not installed", for_gpus(f"pip install 'cuda-bindings=={release}.*'" if release else "pip install cuda-bindings")
    )


def _cuda_bindings(facts: Mapping[str, Any]) -> Examined:
    """CUDA's Python, by which engines are run; with a GPU, its release may be too new for the driver."""
    gpu = cuda_absence()
    if gpu:
        return Examined("nothing", Absence(gpu.reason, ""))
    if facts["status"]:
        remedy = "update the NVIDIA driver, or pip install 'cuda-bindings==12.*'"
        return Examined("nothing", Absence(f"CUDA does not start: {facts['text']}", remedy))
    return Examined("GPU")


def _tensorrt_absence(name: str) -> Absence | None:
    """The version that will be imported: TensorRT also comes from apt, and from pip under other names."""
    if name in installed():
        return None
    command = how_to_install(name)
    # RTX compiles without a GPU: it is of use to anybody
    return Absence("not installed", for_gpus(command) if name == "tensorrt" else command)


def _tensorrt(name: str, facts: Mapping[str, Any]) -> Examined:
    """The device on which this release would run here, and its limit."""
    version = str(facts["version"])
    flavour = flavour_of(name, version)
    if flavour is None:
        unknown = Absence(f"edgekit does not know {name} {version}", f"install one of {known_versions(name)}")
        return Examined("nothing", unknown, version)
    limit, without = _limit(flavour, facts), "nothing" if flavour.needs_gpu else "builds engines here, runs none"
    return Examined(without if limit else "GPU", limit, version)


def _limit(flavour: Flavour, facts: Mapping[str, Any]) -> Absence | None:
    """Why it runs no engine here."""
    gpu = cuda_absence()
    if gpu:
        return Absence(gpu.reason, "install one" if flavour.needs_gpu else "none is needed to build")
    return _too_old_driver(facts) or unknown_gpu("it", facts.get("capabilities") or [], gpu_facts())


def _too_old_driver(facts: Mapping[str, Any]) -> Absence | None:
    built, driver = facts.get("cuda") or "", gpu_facts().get("cuda driver", "")
    if not built or not driver or int(driver.partition(".")[0]) >= int(built):
        return None
    return Absence(f"it is built for CUDA {built}, and the driver reaches CUDA {driver}", "update the NVIDIA driver")


LIBRARIES = {"libcudnn.so.8": "pip install 'nvidia-cudnn-cu12<9'"}
"""Libraries that a release does not bring itself: TensorRT 8.6 asks for the older cuDNN, and takes no newer one."""

PACKAGES = (
    Package("cuda-bindings", _cuda_bindings_absence, (_PROBE, "cuda-bindings"), _cuda_bindings),
    *(
        Package(name, partial(_tensorrt_absence, name), (_PROBE, name), partial(_tensorrt, name), LIBRARIES)
        for name in ("tensorrt", "tensorrt-rtx")
    ),
)
