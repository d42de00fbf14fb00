"""Two-stream action recognition: appearance from RGB frames, motion from optical flow, late fusion."""

__version__ = "0.1.0"
