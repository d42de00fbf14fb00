"""Weights from files: reading them, and loading them into a network key by key."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from twostream.errors import UserError
from twostream.networks.inflate import adapt_first_conv

State = dict[str, torch.Tensor]
T = TypeVar("T")


def read_weights(path: str | Path) -> State:
    """The tensors of a `.pth`, `.pt` or `.safetensors` state dict; nothing in the file can run code.

    A training checkpoint that holds the state dict under `state_dict` or `model` is opened too. Prefixes that
    wrappers put before every key (`module.`, `model.`, `network.`, ...) are taken off by :func:`load_weights`.

    Raises:
        UserError: the file is missing, damaged, or not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such weight file; `weights:` is none, pretrained, one of the library's tags or a path"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors, or is damaged; save the network's state_dict() alone and name that file"
        ) from None
    except Exception as error:  # both readers raise whatever a damaged byte leads to, up to KeyError and struct.error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as weights ({reason}); fetch the file again") from error
    for nest in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nest), dict):
            state = state[nest]
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise UserError(f"{path}: is not a state dict (names to tensors); save the network's state_dict() there")
    return dict(state)


def load_weights(
    network: nn.Module,
    state: State,
    *,
    where: str,
    first_conv: tuple[str, ...],
    classifier: tuple[str, ...],
    frame_channels: int,
) -> list[str]:
    """Load a state dict into a network, all of it but a classifier of another size.

    The first convolution is adapted to another number of channels by :func:`inflate.adapt_first_conv`. A classifier of
    another size, or that the state dict lacks, stays as the network was made: random.

    Args:
        where: what the weights are called in an error.
        first_conv: names of the convolutions that read the input (a few networks have several).
        classifier: names of the modules whose size follows the number of classes.
        frame_channels: channels of one frame of the network's input (3 rgb, 2 flow).

    Returns:
        The names of the parameters that stayed random.

    Raises:
        UserError: keys or shapes do not match otherwise; the line counts them and names the first.
    """
    wanted = network.state_dict()
    state = _without_prefix(state, wanted)
    for key in (f"{name}.weight" for name in first_conv):
        if key in state and key in wanted and _only_channels_differ(state[key].shape, wanted[key].shape):
            state[key] = adapt_first_conv(state[key], wanted[key].shape[1], frame_channels)
    heads = [f"{name}.{leaf}" for name in classifier for leaf in ("weight", "bias")]
    if any(head in state and state[head].shape != wanted[head].shape for head in heads if head in wanted):
        state = {name: value for name, value in state.items() if name not in heads}
    # Older files lack the counters of batch norm, which nothing in a forward pass reads.
    missing = [n for n in wanted if n not in state and n not in heads and not n.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in wanted]
    reshaped = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    problems = [
        f"{len(names)} {what} (first: {names[0]}{_shapes(names[0], state, wanted) if names is reshaped else ''})"
        for names, what in ((missing, "missing"), (extra, "unknown"), (reshaped, "of another shape"))
        if names
    ]
    if problems:
        raise UserError(
            f"{where}: weights do not fit the model: of its {len(wanted)} tensors {', '.join(problems)}; "
            "use the file of the same architecture, or weights: none"
        )
    network.load_state_dict({**wanted, **state})
    return [name for name, _ in network.named_parameters() if name not in state]


def fetch(what: str, url: str, place: Path | None, download: Callable[[], T]) -> T:
    """Run a library's own download; one line that says where the file can be put when it fails.

    Args:
        what: the model's name, for the error.
        url: where the library fetches the file from.
        place: where the library looks for the file before it downloads, or None when it cannot be laid there by hand.
    """
    try:
        return download()
    except (
        OSError,
        RuntimeError,
        ImportError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:  # or a damaged file is there
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        put = f"put the file at {place}, or " if place else ""
        raise UserError(
            f"{what}: pretrained weights could not be fetched ({reason}); get {url} on a machine with a network, "
            f"then {put}write its path in `weights:`"
        ) from error


def _without_prefix(state: State, wanted: State) -> State:
    """Take off what wrappers put before every key, until the keys are the network's own."""
    while len({name.partition(".")[0] for name in state}) == 1 and not state.keys() & wanted.keys():
        if not all("." in name for name in state):
            break
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return dict(state)


def _only_channels_differ(have: torch.Size, want: torch.Size) -> bool:
    return len(have) == len(want) >= 4 and have[0] == want[0] and have[2:] == want[2:] and have[1] != want[1]


def _shapes(name: str, state: State, wanted: State) -> str:
    return f", {list(state[name].shape)} for {list(wanted[name].shape)}"
