"""Pictures for the tests of reading, written with Pillow and rasterio, and what they must look like."""

import numpy as np
import rasterio
from PIL import Image, ImageOps
from rasterio.enums import Resampling

# Smooth enough for JPEG, with every channel different and no symmetry.
ROWS, COLS = np.mgrid[0:61, 0:83]
PICTURE = np.stack([(ROWS * 4) % 256, (COLS * 3) % 256, (ROWS * COLS // 20) % 256], axis=2).astype(np.uint8)


def pillow_rgb(path):
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def write_raster(path, data, *, driver="GTiff", colorinterp=None, overviews=None, mask=None, **profile):
    """Write (C, H, W) with rasterio."""
    profile = {"driver": driver, "count": len(data), "height": data.shape[1], "width": data.shape[2]} | profile
    with rasterio.open(path, "w", dtype=data.dtype, **profile) as raster:
        raster.write(data)
        if colorinterp:
            raster.colorinterp = colorinterp
        if mask is not None:
            raster.write_mask(mask)
        if overviews:
            raster.build_overviews(overviews, Resampling.average)
    return path


def stretched(band, valid=None):
    """Brute-force twin of the stretch: 2..98 % of the valid pixels to 0..255."""
    values = band[np.isfinite(band) if valid is None else valid].astype(np.float64)
    low, high = np.percentile(values, (2, 98))
    return np.rint(np.clip((band.astype(np.float64) - low) / (high - low), 0, 1) * 255)


def large_raster(height=400, width=300):
    """A smooth picture, so that averages are near any other way of making it smaller."""
    rows, cols = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, cols * 255 // width, (rows + cols) % 256 // 4]).astype(np.uint8)
