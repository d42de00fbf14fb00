"""Published results to stand beside ours, quoted: nothing here was measured by this project."""

from __future__ import annotations

from typing import NamedTuple


class Quoted(NamedTuple):
    """Top-1 in per cent and the split it is of, empty where not known; a `*` marks what was not confirmed."""

    system: str
    pretraining: str
    splits: str
    rgb: str
    flow: str
    fused: str
    source: str


_I3D = "Carreira & Zisserman, Quo Vadis, Action Recognition?, CVPR 2017"

HMDB51 = (
    Quoted("3D CNN, first", "none", "1", "9.28", "", "", "student notebooks"),
    Quoted("3D CNN, second", "none", "1", "11.76", "", "", "student notebooks"),
    Quoted("ResNet-50", "ImageNet", "1", "43.27", "", "", "student notebooks"),
    Quoted(
        "Two-Stream",
        "ImageNet (spatial)",
        "",
        "",
        "",
        "59.4",
        "Simonyan & Zisserman, Two-Stream Convolutional Networks for Action Recognition in Videos, NIPS 2014",
    ),
    Quoted(
        "Two-stream fusion",
        "ImageNet",
        "",
        "",
        "",
        "65.4",
        "Feichtenhofer et al., Convolutional Two-Stream Network Fusion for Video Action Recognition, CVPR 2016",
    ),
    Quoted(
        "TSN",
        "ImageNet",
        "",
        "",
        "",
        "68.5*",
        "Wang et al., Temporal Segment Networks, ECCV 2016 (without warped flow)",
    ),
    Quoted("I3D", "ImageNet", "1", "49.8", "61.9", "66.4", _I3D),
    Quoted("I3D", "ImageNet + Kinetics", "1", "74.8", "77.1*", "80.7", _I3D),
    Quoted(
        "R(2+1)D-34, Farneback flow",
        "Kinetics",
        "",
        "74.5",
        "76.4",
        "78.7",
        "Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018",
    ),
    Quoted("TSN, ResNet-50", "ImageNet", "1", "48.95", "", "", "mmaction2 model zoo"),
    Quoted("TSN, ResNet-50", "Kinetics", "1", "56.08", "", "", "mmaction2 model zoo"),
)
