"""Flow in 8 bits per component: `q = round(v * 127 / bound) + 128`; zero motion is exactly 128."""

from __future__ import annotations

import numpy as np


def encode_flow(flow_px: np.ndarray, bound_px: float) -> np.ndarray:
    """Return the codes, uint8 from 1 to 255, of flow float32 [..., 2]; motion beyond `bound_px` is clipped to it."""
    codes = flow_px * np.float32(127.0 / bound_px)
    np.rint(codes, out=codes)  # in place throughout: fresh memory costs more than the arithmetic
    codes += 128
    return np.clip(codes, 1, 255, out=codes).astype(np.uint8)


def decode_flow(codes: np.ndarray, bound_px: float) -> np.ndarray:
    """Return the flow, float32 pixels, of codes uint8 [..., 2]; the error before JPEG is at most `bound_px / 254`."""
    return (codes.astype(np.float32) - 128.0) * np.float32(bound_px / 127.0)


def mirror_codes(codes: np.ndarray) -> np.ndarray:
    """Return the codes of the mirrored video: the image is mirrored, and x alone is negated.

    Args:
        codes: uint8 [..., H, W, 2], contiguous or not.
    """
    mirrored = codes[..., ::-1, :].copy()
    # 256 - q is the code of -x; q = 0 can only come from JPEG ringing, and its mirror image is the largest code.
    mirrored[..., 0] = np.minimum(256 - mirrored[..., 0].astype(np.int16), 255)
    return mirrored
