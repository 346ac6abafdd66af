"""The proof of a fold: the graph before and after it in float64, at the outputs and at every place that must not have changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from edgekit.errors import ModelError, first_line
from edgekit.graphs.exact import Exact, ExactRun, Jittered, Override, run_in_float64, sampled_error, worst_output_error

FLOAT64_LIMIT = 1e-12
NOISE_FACTOR = 8  # one convolution rounds once a term, the estimate of noise once a result
NOISY_LIMIT = 1e-9


class Proof:
    """Made from a graph before anything is rewritten; ``check`` holds the rewritten graph against it.

    An output may hide an error (an argmax, a sigmoid, one huge channel), so the values inside are compared too: ``unchanged``
    notes where a node has the value that one had before.
    """

    def __init__(self, model: nn.Module, graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
        self._name = type(model).__name__
        self._example = example
        self._before = self._run(graph)
        self._nodes: dict[fx.Node, fx.Node] = {}  # of the graph -> of its copy
        copy = fx.Graph()
        copy.output(copy.graph_copy(graph.graph, self._nodes))
        copy.set_codegen(graph.graph._codegen)  # how inputs and outputs are nested
        self._copy = fx.GraphModule(graph, copy)  # the weights are the same
        self._same: dict[fx.Node, fx.Node] = {}  # now -> before
        self._changed: set[fx.Node] = set()

    def unchanged(self, places: Sequence[tuple[fx.Node, fx.Node]], touched: Sequence[fx.Node]) -> None:
        """A fold keeps the value at each of ``places`` (before, now), and changes it at ``touched``."""
        stale = frozenset(self._changed)
        for node in touched:
            self._same.pop(node, None)
            self._changed.add(node)
        for before, now in places:
            # what an earlier fold has changed has not the value it once had
            if before not in stale and now.op == "call_function" and before in self._before.samples:
                self._same[now] = before

    def check(self, graph: fx.GraphModule, override: Override) -> float:
        """The largest difference found, relative to scale; raises ModelError when it is more than rounding explains."""
        after = run_in_float64(graph, self._example, override)
        error = self._difference(after)
        if not error <= FLOAT64_LIMIT:
            self._explain(error, self._noise(graph, override, after))
        return error

    def _difference(self, after: ExactRun) -> float:
        inside = [sampled_error(after.samples[now], self._before.samples[before]) for now, before in self._same.items()]
        return max([worst_output_error(after.outputs, self._before.outputs), *inside])

    def _noise(self, graph: fx.GraphModule, override: Override, after: ExactRun) -> float:
        """How far float64's own rounding moves what is compared, on either side."""
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
        """A deep model may amplify rounding beyond the limit: then what rounding alone does is the measure, up to a limit too."""
        if error <= min(NOISE_FACTOR * noise, NOISY_LIMIT):
            return
        if error <= NOISE_FACTOR * noise:
            raise ModelError(
                f"{self._name} amplifies rounding so much that its float64 values are good to {noise:.0e} of their scale "
                "only, and its float32 outputs to nothing: no fold can be proven",
                "check its weights (are they trained?) or export with --no-fold-bn",
            )
        raise ModelError(
            f"folding {self._name} changed its float64 outputs by {error:.1e} of their scale, which is a defect of "
            "edgekit or statistics too extreme to fold",
            "export with --no-fold-bn and report it",
        )

    def _run(self, graph: fx.GraphModule) -> ExactRun:
        try:
            return run_in_float64(graph, self._example, interpreter=Exact)
        except Exception as problem:
            raise ModelError(
                f"{self._name} runs, but not in float64, in which edgekit proves a fold: {first_line(problem)}",
                "export with --no-fold-bn",
            ) from problem
