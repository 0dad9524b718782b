"""Which bands of a raster are red, green and blue, and which are alpha."""

import dataclasses
import re
from collections.abc import Sequence

# What Sentinel-2 and Landsat 8 and 9 call them: B04, B4, SR_B4. "Band 4" is a number, no name.
_CODES = {"red": "b0?4", "green": "b0?3", "blue": "b0?2"}
# Words beside "red" that make it something else: red edge, infra red.
_NOT_A_COLOUR = {"edge", "rededge", "infra", "infrared", "near", "nir", "swir"}
# Colours that three bands do not show as they are.
_OTHER_COLOURS = {"cyan", "magenta", "yellow", "black", "hue", "saturation", "lightness", "Y", "Cb", "Cr"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandRoles:
    """Bands of a raster, counted from 1.

    Attributes:
      colours: three for red, green and blue, or one for grey. alpha: all that are alpha.
      how: what told the colours: "by colour interpretation", "by name"; "" where they are the first.
      is_other: the colours are of another kind than red, green, blue or grey, such as cyan.
    """

    colours: tuple[int, ...]
    alpha: tuple[int, ...]
    how: str
    is_other: bool


def band_roles(interpretations: Sequence[str], names: Sequence[str | None]) -> BandRoles:
    """Tell the bands' roles from GDAL's colour interpretations, else from the bands' names, else from their order.

    Args:
      interpretations: of every band, rasterio's words ("red", "alpha", "undefined", ...).
      names: of every band, such as "B04", "Red" or "SR_B4"; None or "" if it has none.
    """
    numbers = range(1, len(interpretations) + 1)
    alpha = tuple(i for i in numbers if interpretations[i - 1] == "alpha")
    # A file of nothing but alpha still has something to show.
    if len(alpha) == len(numbers):
        alpha = ()
    colours = [i for i in numbers if i not in alpha]
    is_other = bool(_OTHER_COLOURS & {interpretations[i - 1] for i in colours})

    def found(how: str, *matches: Sequence[int]) -> BandRoles | None:
        if not all(matches):
            return None
        return BandRoles(colours=tuple(match[0] for match in matches), alpha=alpha, how=how, is_other=is_other)

    words = {i: re.findall(r"[a-z0-9]+", (names[i - 1] or "").lower()) for i in colours}
    by_interpretation = ([i for i in colours if interpretations[i - 1] == role] for role in _CODES)
    by_word = ([i for i in colours if _is_colour(words[i], role)] for role in _CODES)
    by_code = ([i for i in colours if any(re.fullmatch(code, word) for word in words[i])] for code in _CODES.values())
    return (
        found("by colour interpretation", *by_interpretation)
        or found("by name", *by_word)
        or found("by name", *by_code)
        or BandRoles(
            colours=tuple(colours[:3] if len(colours) >= 3 else colours[:1]), alpha=alpha, how="", is_other=is_other
        )
    )


def _is_colour(words: Sequence[str], role: str) -> bool:
    return (role in words and not _NOT_A_COLOUR & set(words)) or words == [role[0]]
