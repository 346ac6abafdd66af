"""Training on several processes and machines, which PyTorch's launcher starts: what each does and what they agree on.

Every process holds all pictures and the whole model, draws the same order and augmentation, and takes its share of every batch.
Gradients are averaged by DistributedDataParallel. The first process alone writes.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

from edgekit.errors import Interrupted, LostError, MissingError, RecipeError, UsageError, first_line
from edgekit.machine import stops
from edgekit.machine.launcher import Elsewhere, Launch, launched
from edgekit.training.sync_norm import SynchronisedNorms

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it takes them for lost: longer than one loads its pictures after another."""
TOLD_WITHIN = timedelta(seconds=10)
"""How long a process that says nothing waits until the one that does has said it: the launcher ends all once one has ended."""


class Peers:
    """The processes of one training, seen from one of them: here the only one. Every method is called by all alike."""

    rank, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, and shows progress."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """The device of this process, of the kind of ``device``."""
        return device

    def share(self, index: Tensor) -> Tensor:
        """The part of ``index`` that is this process's; the parts of all are the whole, in the order of the processes."""
        return torch.tensor_split(index, self.count)[self.rank]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set in any process."""
        return flags

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in place."""
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """The largest of each element over the processes, in place."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        return [value]

    def broadcast(self, value: T) -> T:
        """The first process's value, in all."""
        return value

    def align(self, model: nn.Module) -> None:
        """Let the buffers of ``model``, such as running statistics, be the first process's."""

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model as steps call it: its backward pass leaves the mean of all processes' gradients."""
        return model

    def synchronised(self) -> AbstractContextManager[object]:
        """While entered, batch norm in training mode is that of the whole batch."""
        return nullcontext()

    def draw_apart(self) -> None:
        """Give each process a stream of random numbers of its own, which follows from the one that all have so far."""

    def check_alike(self, key: dict[str, str]) -> None:
        """Raise UsageError unless all processes train the same, by the names and values of ``key``."""

    def check_batch(self, batch: int) -> None:
        """Raise RecipeError where the smallest ``batch`` is too small for several processes."""


ALONE = Peers()


class Together(Peers):
    """One process of several, each with the default process group of ``torch.distributed``."""

    def __init__(self, launch: Launch) -> None:
        self.rank, self.count, self._local_rank = launch

    def place(self, device: torch.device) -> torch.device:
        """Its own CUDA device; raises MissingError where its machine has fewer of them than processes."""
        if device.type != "cuda":
            return device
        devices = torch.cuda.device_count()
        if self._local_rank >= devices:
            raise MissingError(
                f"process {self._local_rank + 1} of this machine has no CUDA device of its own: there are {devices}",
                f"start torchrun with --nproc-per-node {devices}, or use --device cpu",
            )
        own = torch.device("cuda", self._local_rank)
        torch.cuda.set_device(own)
        return own

    def any(self, *flags: bool) -> tuple[bool, ...]:  # noqa: D102
        values = torch.tensor(flags, dtype=torch.uint8)  # on the CPU: the host need not wait for a GPU
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(map(bool, values.tolist()))

    def sum(self, tensor: Tensor) -> Tensor:  # noqa: D102
        dist.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:  # noqa: D102
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def gather(self, value: T) -> list[T]:  # noqa: D102
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:  # noqa: D102
        values = [value if self.first else None]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]  # type: ignore[return-value]

    def align(self, model: nn.Module) -> None:  # noqa: D102
        buffers = list(model.buffers())
        with torch.no_grad():
            for buffer, value in zip(buffers, self.broadcast([each.cpu() for each in buffers]), strict=True):
                buffer.copy_(value)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """DistributedDataParallel over the parameters that are trained now: to be made anew where others are.

        With ``find_unused_parameters`` a model may have parameters that a step does not reach, as on one process, and gradients
        are summed in one order from the first step on, so that a resumed training repeats bit for bit.
        """
        device = next(model.parameters()).device
        devices = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(_WithIdle(model), device_ids=devices, find_unused_parameters=True)

    def synchronised(self) -> AbstractContextManager[object]:  # noqa: D102
        return SynchronisedNorms(self.sum, self._on_cuda)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _on_cuda(self, *parameters: Any) -> Tensor:
        """Batch norm by PyTorch's own kernels (``nn.SyncBatchNorm``), of its parameters in their order."""
        return SyncBatchNorm.apply(*parameters, dist.group.WORLD, self.count)  # type: ignore[no-any-return,no-untyped-call]

    def draw_apart(self) -> None:  # noqa: D102
        torch.manual_seed(int(torch.randint(2**62, (self.count,))[self.rank]))

    def check_alike(self, key: dict[str, str]) -> None:  # noqa: D102
        keys = self.gather(key)
        for number, other in enumerate(keys, 1):
            names = [name for name in keys[0] if other.get(name) != keys[0][name]]
            if names:
                raise UsageError(
                    f"process {number} of {self.count} has other {' and other '.join(names)} than the first",
                    "give every machine the same recipe, pictures and code",
                )

    def check_batch(self, batch: int) -> None:  # noqa: D102
        if batch < self.count:
            raise RecipeError(
                f"a batch of {batch} pictures has none for some of the {self.count} processes",
                "raise train.batch_size, which is that of all processes together, or start fewer",
            )


class _WithIdle(nn.Module):
    """A model beside a parameter that no step reaches: DistributedDataParallel warns where it finds none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.idle = model, nn.Parameter(torch.zeros(1, device=next(model.parameters()).device))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)  # type: ignore[no-any-return]


def peers() -> Peers:
    """The processes of this training: all that ``joined`` has brought together, or this one alone."""
    launch = launched()
    return Together(launch) if launch and dist.is_available() and dist.is_initialized() else ALONE


@contextmanager
def joined() -> Iterator[Peers]:
    """Join the processes that the launcher has started; without a launcher, and inside another ``joined``, nothing is done.

    Of an error, which ends all of them, the first process that has it raises it, whichever that is; the others raise Elsewhere
    when it has been told. Raises LostError where one has ended or cannot be reached, and MissingError where they do not come
    together.
    """
    launch = launched()
    if launch is None or dist.is_initialized():
        yield peers()
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as problem:  # torch.distributed's own errors are RuntimeErrors
        raise MissingError(
            f"the {launch.processes} processes do not come together: {first_line(problem)}",
            "see that all machines reach --rdzv-endpoint, and that GLOO_SOCKET_IFNAME names their network interface",
        ) from problem
    try:
        yield Together(launch)
    except BaseException as problem:
        for number in stops.SIGNALS:  # the launcher's, once another process has ended: the sentence comes first
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, signal.SIG_IGN)
        if not _tells():
            raise Elsewhere(_code(problem)) from problem
        if isinstance(problem, RuntimeError) and _is_of_transport(problem):
            raise LostError(
                "a process of this training has ended, or cannot be reached",
                "start all again with --resume, which goes on from the last checkpoint",
            ) from problem
        raise
    finally:
        dist.destroy_process_group()


def _is_of_transport(problem: RuntimeError) -> bool:
    return isinstance(problem, dist.DistError) or "gloo" in str(problem).lower()


def _tells() -> bool:
    """Whether this process is the first of all to have an error; if not, returns once that one has ended or time is up."""
    with suppress(RuntimeError):  # the store may be gone with a machine: then everybody tells
        store = dist.distributed_c10d._get_default_store()
        if store.add("edgekit/errors", 1) > 1:
            with suppress(RuntimeError):
                store.wait(["edgekit/told"], TOLD_WITHIN)
            return False
        atexit.register(_has_told, store)
    return True


def _has_told(store: Any) -> None:
    with suppress(RuntimeError):
        store.set("edgekit/told", "1")


def _code(problem: BaseException) -> int:
    """What the command line exits with for an error."""
    return stops.exit_code() if isinstance(problem, (Interrupted, KeyboardInterrupt)) else 2
