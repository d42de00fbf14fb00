"""Compare networks for the temporal stream: how well and how fast each learns motions from few clips.

    python benchmarks/temporal.py [--models flow3d cnn3d_v2 cnn3d_v1] [--draws 2] [--threads 1]

The clips are synthetic and differ in motion only: a soft blob swings up and down, left and right, or around in one
direction or the other, pulsates, turns, or swings three times as fast, under a drifting camera and smooth noise.
Training is the same for all: 104 clips of 16 flow fields of 48x48 pixels, 15 epochs, AdamW.
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2
import numpy as np
import torch
from torch.nn import functional

from twostream.networks.registry import create_model

KINDS, FRAMES, SIDE = 8, 16, 48
TRAIN_CLIPS, TEST_CLIPS, EPOCHS, BATCH = 104, 240, 15, 12


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy on held-out synthetic motions, and seconds of training.")
    parser.add_argument(
        "--models", nargs="+", default=["flow3d", "cnn3d_v2", "cnn3d_v1"], help="names as in params.yaml"
    )
    parser.add_argument("--draws", type=int, default=2, help="independent data sets and starts (2)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--lr", type=float, default=0.002, help="learning rate (0.002)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{'model':<12}{'parameters':>12}{'accuracy':>10}{'each draw':>22}{'seconds':>10}")
    for name in args.models:
        accuracies, seconds = [], []
        for draw in range(args.draws):
            torch.manual_seed(draw)
            network = create_model(name, modality="flow", classes=KINDS, frames=FRAMES, dropout=0.2, input_size=SIDE)
            start = time.perf_counter()
            _train(network, *motions(TRAIN_CLIPS, seed=draw), lr=args.lr)
            seconds.append(time.perf_counter() - start)
            accuracies.append(_accuracy(network, *motions(TEST_CLIPS, seed=1000 + draw)))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        each = " ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        mean = statistics.mean(accuracies)
        print(f"{name:<12}{parameters:>12,}{mean:>10.2f}{each:>22}{statistics.median(seconds):>10.1f}", flush=True)


def motions(clips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised flow, float32 [clips, 1, 2, FRAMES, SIDE, SIDE], and the class of each clip, int64 [clips]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    t = np.arange(FRAMES)[:, None, None]
    flows = np.empty((clips, 2, FRAMES, SIDE, SIDE), np.float32)
    kinds = np.arange(clips) % KINDS
    for flow, kind in zip(flows, kinds, strict=True):
        centre, radius = rng.uniform(0.3 * SIDE, 0.7 * SIDE, 2), rng.uniform(0.12, 0.25) * SIDE
        u, v = (x - centre[0]) / radius, (y - centre[1]) / radius
        speed, phase = rng.uniform(1, 3), 2 * np.pi * (t / rng.uniform(9, 16) + rng.uniform())
        swing, lag, fast = np.cos(phase), np.sin(phase), np.cos(3 * phase)
        still = np.zeros_like(u)
        moves = (
            (still * t, swing), (swing, still * t), (u * swing, v * swing), (-v * swing, u * swing),
            (swing, lag), (swing, -lag), (still * t, fast), (fast, still * t),
        )[kind]  # fmt: skip
        blob = speed * np.exp(-(u**2 + v**2) / 2)
        camera = np.cumsum(rng.normal(0, 0.3, (2, FRAMES)), axis=1)
        noise = [cv2.GaussianBlur(rng.normal(0, 4, (SIDE, SIDE, 2)), (0, 0), 2) for _ in range(FRAMES)]
        flow[:] = np.stack([np.broadcast_to(move * blob, (FRAMES, SIDE, SIDE)) for move in moves])
        flow += (camera - camera.mean(1, keepdims=True))[..., None, None] + np.moveaxis(np.stack(noise), -1, 0)
    codes = np.clip(flows * (127 / 16), -127, 127) / 57.6  # as stored with a bound of 16 pixels, normalised
    return torch.from_numpy(codes)[:, None].float(), torch.from_numpy(kinds)


def _train(network: torch.nn.Module, flow: torch.Tensor, kinds: torch.Tensor, lr: float) -> None:
    steps = EPOCHS * (len(flow) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    network.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(flow)).split(BATCH)[: len(flow) // BATCH]:
            optimizer.zero_grad()
            functional.cross_entropy(network(flow[batch]), kinds[batch]).backward()
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def _accuracy(network: torch.nn.Module, flow: torch.Tensor, kinds: torch.Tensor) -> float:
    network.eval()
    predicted = torch.cat([network(part).argmax(1) for part in flow.split(24)])
    return (predicted == kinds).float().mean().item()


if __name__ == "__main__":
    main()
