"""What a camera adds to the light that reaches it: a little blur, noise, a colour cast; and the JPEG."""

from __future__ import annotations

import io

import numpy as np

from posebook.skeleton import PART_COLOURS
from posebook.synthesis.wardrobe import to_srgb


def develop(light: np.ndarray, rng: np.random.Generator, imperfect: bool = True) -> np.ndarray:
    """Linear light (H, W, 3), 1 as bright as the sensor records, to (H, W, 3) uint8 sRGB.

    An imperfect camera is out of focus by up to 0.9 pixels (a third of the pictures), adds shot noise and read noise
    (half of them; at mid grey up to about 2 % of full scale) and renders white with a cast of up to 8 %.
    """
    if imperfect:
        blur = rng.uniform(0.3, 0.9) if rng.random() < 0.35 else 0.0
        gain, read = rng.uniform(0, 0.0015), rng.uniform(0, 0.004)
        noisy = rng.random() < 0.5
        light = light * rng.uniform(0.92, 1.08, 3)
        if blur:
            from scipy.ndimage import gaussian_filter
            light = gaussian_filter(light, (blur, blur, 0), mode="nearest")
        if noisy:
            light = light + rng.normal(size=light.shape) * np.sqrt(gain * np.clip(light, 0, 1) + read ** 2)
    return (to_srgb(light) * 255).round().astype(np.uint8)


def encode(image: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 to JPEG with halved colour resolution."""
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True, progressive=True, subsampling=2)
    return buffer.getvalue()


def encode_parts(parts: np.ndarray) -> bytes:
    """(H, W) uint8 labels 0..14 to a PNG of four bits a pixel, in colours that tell the parts apart."""
    from PIL import Image
    picture = Image.frombytes("P", parts.shape[::-1], parts.tobytes())
    picture.putpalette(PART_COLOURS.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", bits=4, optimize=True)
    return buffer.getvalue()
