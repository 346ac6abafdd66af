"""Start a training from the weights of another one, whose classes or input channels may differ."""

from __future__ import annotations

from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.spellings import State, with_counters
from edgekit.models.weights import Fitting, fits_at, load_checkpoint, same_names


def start_from(model: nn.Module, file: str, classes: int, *, adapt_channels: bool = False) -> tuple[str, ...]:
    """Load the weights of ``file`` (a path, or ``path:key``) into ``model``; returns notes on what was changed.

    Where the file has another number of classes, the layers that give them keep the model's own initial weights. With
    ``adapt_channels``, the weights w (out x in x kernel) of the one layer that takes another number of channels become

        w[o, j] = sum over c of w[o, c] / in,     in: the model's channels

    so that a picture whose channels are all equal gives what it gave before. Raises ModelError if anything else differs.
    """

    def fit(state: State, own: State) -> Fitting | None:
        if not same_names(state, own):
            return None
        apart = [key for key in own if not fits_at(key, state, own)]
        heads = [key for key in apart if _is_head(state[key], own[key], classes)]
        first = next((key for key in own if own[key].dim() > 2), "")
        widths = [key for key in apart if key == first and _is_width(state[key], own[key])]
        if len({len(state[key]) for key in heads}) > 1 or len(widths) > 1 or len(apart) > len(heads) + len(widths):
            return None
        if widths and not adapt_channels:
            before, after = state[widths[0]].shape[1], own[widths[0]].shape[1]
            raise ModelError(
                f"the weights {file} are for {before} input channels ({widths[0]}), and the pictures have {after}",
                "set data.color so that they agree, or model.adapt_channels = true",
            )
        changed = {key: own[key] for key in heads} | {key: _spread(state[key], own[key].shape[1]) for key in widths}
        return Fitting(with_counters({**state, **changed}, own), tuple(_notes(state, own, heads, widths)))

    return load_checkpoint(model, file, fit)


def _is_head(value: Tensor, own: Tensor, classes: int) -> bool:
    return own.dim() > 0 and value.shape[1:] == own.shape[1:] and len(own) == classes != len(value)


def _is_width(value: Tensor, own: Tensor) -> bool:
    return own.dim() > 2 and value.dim() == own.dim() and value.shape[:1] + value.shape[2:] == own.shape[:1] + own.shape[2:]


def _spread(weight: Tensor, channels: int) -> Tensor:
    return (weight.sum(1, keepdim=True) / channels).expand(-1, channels, *weight.shape[2:])


def _notes(state: State, own: State, heads: list[str], widths: list[str]) -> list[str]:
    layers = list(dict.fromkeys(key.rpartition(".")[0] or key for key in heads))
    notes = (
        [f"{', '.join(layers)} begins anew: the file has {len(state[heads[0]])} classes, the data {len(own[heads[0]])}"]
        if heads
        else []
    )
    notes += [f"{key} was adapted from {state[key].shape[1]} input channels to {own[key].shape[1]}" for key in widths]
    return notes
