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


_TWO_STREAM = "Simonyan & Zisserman, Two-Stream Convolutional Networks for Action Recognition in Videos, NIPS 2014"
_FUSION = "Feichtenhofer et al., Convolutional Two-Stream Network Fusion for Video Action Recognition, CVPR 2016"
_TSN = "Wang et al., Temporal Segment Networks, ECCV 2016 (without warped flow)"
_I3D = "Carreira & Zisserman, Quo Vadis, Action Recognition?, CVPR 2017"
_R2PLUS1D = "Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018"
_ZOO = "mmaction2 model zoo"

HMDB51 = (
    Quoted("3D CNN, first", "none", "1", "9.28", "", "", "student notebooks"),
    Quoted("3D CNN, second", "none", "1", "11.76", "", "", "student notebooks"),
    Quoted("ResNet-50", "ImageNet", "1", "43.27", "", "", "student notebooks"),
    Quoted("Two-Stream", "ImageNet (spatial)", "1, 2, 3", "40.5*", "54.6*", "59.4", _TWO_STREAM),
    Quoted("Two-stream fusion", "ImageNet", "", "", "", "65.4", _FUSION),
    Quoted("TSN", "ImageNet", "", "", "", "68.5*", _TSN),
    Quoted("I3D", "ImageNet", "1", "49.8", "61.9", "66.4", _I3D),
    Quoted("I3D", "ImageNet + Kinetics", "1", "74.8", "77.1*", "80.7", _I3D),
    Quoted("R(2+1)D-34, Farneback flow", "Kinetics", "", "74.5", "76.4", "78.7", _R2PLUS1D),
    Quoted("TSN, ResNet-50", "ImageNet", "1", "48.95", "", "", _ZOO),
    Quoted("TSN, ResNet-50", "Kinetics", "1", "56.08", "", "", _ZOO),
)

UCF101 = (
    Quoted("Two-Stream", "ImageNet (spatial)", "1, 2, 3", "73.0*", "83.7*", "88.0", _TWO_STREAM),
    Quoted("Two-stream fusion", "ImageNet", "", "", "", "92.5*", _FUSION),
    Quoted("TSN", "ImageNet", "", "", "", "94.0*", _TSN),
    Quoted("I3D", "ImageNet", "1", "84.5*", "90.6*", "93.4*", _I3D),
    Quoted("I3D", "ImageNet + Kinetics", "", "95.6*", "96.7*", "98.0", _I3D),
    Quoted("R(2+1)D-34, Farneback flow", "Kinetics", "", "96.8*", "95.5*", "97.3*", _R2PLUS1D),
    Quoted("TSN, ResNet-50", "ImageNet", "1", "83.03", "", "", _ZOO),
)

BY_DATASET = {"hmdb51": ("HMDB51", HMDB51), "ucf101": ("UCF101", UCF101)}
