"""The flags that name a part of a picture, by pixels or on the map."""

from absl import flags

from bat_jax.config import BatConfig
from bat_jax.io.areas import Area, box_area, outside_as_nodata, read_area
from bat_jax.io.georeference import WGS84
from bat_jax.io.images import SourceImage, read_image
from . import compressor_flags as compressor

WINDOW = flags.DEFINE_string(
    "window", None, "Read only this part, COL,ROW,WIDTH,HEIGHT in pixels of the file as stored."
)
BBOX = flags.DEFINE_string("bbox", None, "Read only this part, WEST,SOUTH,EAST,NORTH in --bbox_crs.")
BBOX_CRS = flags.DEFINE_string("bbox_crs", WGS84, "Reference system of --bbox; by default longitudes and latitudes.")
AOI = flags.DEFINE_string(
    "aoi", None, "Read only the polygons of this GeoJSON file: the window around them, without data outside."
)


def area_of_flags() -> Area | None:
    """Return the area on the map that --bbox or --aoi names.

    Raises:
      ValueError: several flags name a part, or one is not understood.
    """
    given = [flag.name for flag in (WINDOW, BBOX, AOI) if flag.value is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]}, --{given[1]}: give one of them")
    if BBOX_CRS.present and BBOX.value is None:
        raise ValueError("--bbox_crs: is of --bbox; leave it out")
    if given and compressor.LABEL_MAP.value:
        raise ValueError(f"--label_map: is of a whole picture; leave out --{given[0]}")
    if AOI.value is not None:
        return read_area(AOI.value)
    if BBOX.value is None:
        return None
    try:
        corners = [float(number) for number in BBOX.value.split(",")]
    except ValueError:
        raise ValueError(f"--bbox={BBOX.value}: want four numbers, west, south, east, north") from None
    return box_area(corners, BBOX_CRS.value)


def read_part(path: str, cfg: BatConfig, area: Area | None) -> SourceImage:
    """Read what the flags name of an image, with the flags for bands, pages and size.

    Args:
      area: of `area_of_flags`.

    Raises:
      ValueError: the file has no such part, or cannot be read.
    """
    options = compressor.read_options(cfg)
    if WINDOW.value is not None:
        window = compressor.whole_numbers(WINDOW.value, "window")
        if len(window) != 4:
            raise ValueError(f"--window={WINDOW.value}: want COL,ROW,WIDTH,HEIGHT")
        return read_image(path, window=window, **options)
    if area is None:
        return read_image(path, **options)
    window, shape = area.in_file(path, compressor.PAGE.value)
    source = read_image(path, window=window, **options)
    return source if AOI.value is None else outside_as_nodata(source, shape)
