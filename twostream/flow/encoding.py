"""Flow in 8 bits a component: `q = round(v * 127 / bound) + 128`; zero motion is exactly 128."""

from __future__ import annotations

import numpy as np


def encode_flow(flow_px: np.ndarray, bound_px: float) -> np.ndarray:
    """float32 [..., 2] pixels to uint8 codes from 1 to 255; motion beyond `bound_px` is clipped to it."""
    codes = flow_px * np.float32(127.0 / bound_px)
    np.rint(codes, out=codes)  # in place throughout: fresh memory costs more than the arithmetic
    codes += 128
    return np.clip(codes, 1, 255, out=codes).astype(np.uint8)


def decode_flow(codes: np.ndarray, bound_px: float) -> np.ndarray:
    """uint8 [..., 2] codes to float32 pixels; the error is at most half a step, `bound_px / 254`, before JPEG."""
    return (codes.astype(np.float32) - 128.0) * np.float32(bound_px / 127.0)


def mirror_codes(codes: np.ndarray) -> np.ndarray:
    """The codes of the mirrored video: the image is mirrored and x, only x, is negated.

    Args:
        codes: uint8 [..., H, W, 2], contiguous or not.
    """
    mirrored = codes[..., ::-1, :].copy()
    # 256 - q is the code of -x; 0 can only come from JPEG ringing and stands for the largest code.
    mirrored[..., 0] = np.minimum(256 - mirrored[..., 0].astype(np.int16), 255)
    return mirrored
