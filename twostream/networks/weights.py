"""Load a state dict into a network, key by key."""

from __future__ import annotations

import torch

from twostream.errors import UserError
from twostream.networks.inflate import adapt_first_conv
from twostream.networks.layers import BaseNetwork
from twostream.networks.weight_files import State


def load_weights(
    base: BaseNetwork, state: State, *, where: str, frame_channels: int, flow_gain: float = 1.0
) -> list[str]:
    """Load a state dict into a network; only a classifier of another size may stay random.

    The first convolution is adapted to another number of channels by :func:`inflate.adapt_first_conv`.

    Args:
        where: the name of the weights in an error.
        frame_channels: channels of one frame of the network's input (3 rgb, 2 flow).
        flow_gain: factor on filters that come from another modality.

    Returns:
        The names of the parameters that stayed random.

    Raises:
        UserError: other keys or shapes do not match; the line counts them and names the first.
    """
    wanted = base.network.state_dict()
    state = _adapt(_without_prefix(state, wanted), wanted, base, frame_channels, flow_gain)
    problems = _differences(state, wanted, optional=_classifier_keys(base))
    if problems:
        raise UserError(
            f"{where}: weights do not fit the model: of its {len(wanted)} tensors {', '.join(problems)}; "
            "use the file of the same architecture, or weights: none"
        )
    base.network.load_state_dict({**wanted, **state})
    return [name for name, _ in base.network.named_parameters() if name not in state]


def _without_prefix(state: State, wanted: State) -> State:
    """Take off what wrappers put before every key, until the keys are the network's own."""
    while len({name.partition(".")[0] for name in state}) == 1 and not state.keys() & wanted.keys():
        if not all("." in name for name in state):
            break
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def _adapt(state: State, wanted: State, base: BaseNetwork, frame_channels: int, flow_gain: float) -> State:
    """Return the state with the first convolution for the wanted channels, without what is unused or does not fit.

    What does not fit is a classifier of another size.
    """
    state = {key: value for key, value in state.items() if key.partition(".")[0] not in base.unused}
    for key in (f"{name}.weight" for name in base.first_conv):
        have, want = (of[key].shape if key in of else torch.Size() for of in (state, wanted))
        if len(have) == len(want) >= 4 and have[0] == want[0] and have[2:] == want[2:] and have[1] != want[1]:
            gain = flow_gain if have[1] % frame_channels else 1.0
            state[key] = gain * adapt_first_conv(state[key], want[1], frame_channels)
    heads = [key for key in _classifier_keys(base) if key in state]
    if any(key in wanted and state[key].shape != wanted[key].shape for key in heads):
        for key in heads:
            del state[key]
    return state


def _classifier_keys(base: BaseNetwork) -> list[str]:
    return [f"{name}.{leaf}" for name in base.classifier for leaf in ("weight", "bias")]


def _differences(state: State, wanted: State, optional: list[str]) -> list[str]:
    """Say how many keys are missing, unknown or of another shape, and which is the first of each."""
    # Older files lack the counters of batch norm, which nothing in a forward pass reads.
    required = [name for name in wanted if name not in optional and not name.endswith("num_batches_tracked")]
    missing = [name for name in required if name not in state]
    unknown = [name for name in state if name not in wanted]
    shapes = [
        f"{name}, {list(state[name].shape)} for {list(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    return [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds if names]
