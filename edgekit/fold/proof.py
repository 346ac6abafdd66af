"""The proof of a fold: compare both graphs in float64, at the outputs and at every inner value that must not change."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from edgekit.errors import ModelError, first_line
from edgekit.graphs.exact import Exact, ExactRun, Jittered, Override, run_in_float64, sampled_error, worst_output_error

FLOAT64_LIMIT = 1e-12
NOISE_FACTOR = 8  # a convolution rounds once per term; the estimate of noise rounds once per result
NOISY_LIMIT = 1e-9


class Proof:
    """Float64 values of a graph before folding; ``check`` compares the folded graph with them.

    An output may hide an error (an argmax, a sigmoid, one huge channel), so inner values are compared too: ``unchanged`` records
    which node now has the value of which node before.
    """

    def __init__(self, model: nn.Module, graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
        self._name = type(model).__name__
        self._example = example
        self._before = self._run(graph)
        self._nodes: dict[fx.Node, fx.Node] = {}  # node of the graph -> node of its copy
        copy = fx.Graph()
        copy.output(copy.graph_copy(graph.graph, self._nodes))
        copy.set_codegen(graph.graph._codegen)  # the nesting of inputs and outputs
        self._copy = fx.GraphModule(graph, copy)  # shares the weights
        self._same: dict[fx.Node, fx.Node] = {}  # node now -> node before with the same value
        self._changed: set[fx.Node] = set()

    def unchanged(self, places: Sequence[tuple[fx.Node, fx.Node]], touched: Sequence[fx.Node]) -> None:
        """Record a fold that keeps the value at each pair of ``places`` (before, now) and changes the values of ``touched``."""
        stale = frozenset(self._changed)
        for node in touched:
            self._same.pop(node, None)
            self._changed.add(node)
        for before, now in places:
            # a value changed by an earlier fold cannot be compared with the original
            if before not in stale and now.op == "call_function" and before in self._before.samples:
                self._same[now] = before

    def check(self, graph: fx.GraphModule, override: Override) -> float:
        """The largest error of scale; raises ModelError if the error is more than rounding explains."""
        after = run_in_float64(graph, self._example, override)
        error = self._difference(after)
        if not error <= FLOAT64_LIMIT:
            self._explain(error, self._noise(graph, override, after))
        return error

    def _difference(self, after: ExactRun) -> float:
        inside = [sampled_error(after.samples[now], self._before.samples[before]) for now, before in self._same.items()]
        return max([worst_output_error(after.outputs, self._before.outputs), *inside])

    def _noise(self, graph: fx.GraphModule, override: Override, after: ExactRun) -> float:
        """The largest effect of float64's own rounding on the compared values, in either graph."""
        jittered = run_in_float64(graph, self._example, override, Jittered)
        original = run_in_float64(self._copy, self._example, interpreter=Jittered)
        ours = [sampled_error(jittered.samples[now], after.samples[now]) for now in self._same]
        theirs = [
            sampled_error(original.samples[self._nodes[before]], self._before.samples[before]) for before in self._same.values()
        ]
        return max(
            worst_output_error(jittered.outputs, after.outputs),
            worst_output_error(original.outputs, self._before.outputs),
            *ours,
            *theirs,
        )

    def _explain(self, error: float, noise: float) -> None:
        """Raise ModelError unless rounding explains the error: a deep model may amplify rounding, up to ``NOISY_LIMIT``."""
        if error <= min(NOISE_FACTOR * noise, NOISY_LIMIT):
            return
        if error <= NOISE_FACTOR * noise:
            raise ModelError(
                f"{self._name} amplifies rounding: its float64 values are exact to {noise:.0e} of their scale only, and its "
                "float32 outputs are meaningless, so no fold can be proven",
                "check its weights (are they trained?) or export with --no-fold-bn",
            )
        raise ModelError(
            f"folding {self._name} changed its float64 outputs by {error:.1e} of their scale, which is a defect of "
            "edgekit or statistics too extreme to fold",
            "export with --no-fold-bn and report this model",
        )

    def _run(self, graph: fx.GraphModule) -> ExactRun:
        try:
            return run_in_float64(graph, self._example, interpreter=Exact)
        except Exception as problem:
            raise ModelError(
                f"{self._name} runs, but not in float64, in which edgekit proves a fold: {first_line(problem)}",
                "export with --no-fold-bn",
            ) from problem
