"""How the values of image files are read when they are packed: transparency, bands, a range, names."""

from __future__ import annotations

from typing import Any, NamedTuple

from mimsuite.data.images.bands import BandError, are_names, band_names_of, find_bands
from mimsuite.data.images.decode import Encoded, Pixels, open_image
from mimsuite.data.images.value_range import Ranged, ValueRange
from mimsuite.errors import InputError
from mimsuite.words import Alpha


class Opened(NamedTuple):
    """An image with what is kept of it.

    Attributes:
        image: the image.
        chosen: the numbers of the bands that are kept, in their order; None: all, as they are.
        names: of the bands that are kept; empty where they have none.
    """

    image: Encoded
    chosen: list[int] | None
    names: tuple[str, ...]

    @property
    def channels(self) -> int:
        """How many are kept."""
        return self.image.channels if self.chosen is None else len(self.chosen)

    def pixels(self, cover: tuple[int, int] | None = None) -> Pixels:
        """The pixels that are kept, `(H, W, channels)`; `cover` as in `Encoded`. Values of other bands do no harm."""
        if self.chosen is None:
            return self.image.pixels(cover=cover)
        if isinstance(self.image, Ranged):
            return self.image.range.apply(self.image.image.pixels(cover=cover)[..., self.chosen])
        return self.image.pixels(cover=cover)[..., self.chosen]


class Reading(NamedTuple):
    """What a user says of the values of files; see `mimsuite pack --help`.

    Attributes:
        alpha: what becomes of transparency.
        bands: names or numbers of the bands to keep, in this order; empty: all.
        band_names: names of all bands of a file; empty: those in its metadata. None: none.
        range: what becomes 0 and 65535; None: values are kept.
    """

    alpha: Alpha = "white"
    bands: tuple[str | int, ...] = ()
    band_names: tuple[str, ...] | None = ()
    range: ValueRange | None = None

    @property
    def changes_values(self) -> bool:
        """Whether the bytes of a file cannot stay as they are."""
        return bool(self.bands) or self.range is not None

    def check(self) -> None:
        """Refuses names and numbers that contradict themselves.

        Raises:
            InputError: a name or number twice, names that cannot be, or a range that is none.
        """
        twice = next((band for band in self.bands if self.bands.count(band) > 1), None)
        if twice is not None:
            raise InputError(f"bands names {twice} twice; name each band once")
        if self.band_names and not are_names(self.band_names):
            shown = ", ".join(self.band_names)
            raise InputError(f"band_names={shown}: a name is empty, very long, or there twice; give each band its own")

    def recognise(self, data: bytes) -> Opened:
        """Opens an encoded image, and finds its bands. With `bands`, alpha is one of them.

        Raises:
            DecodeError: it cannot be read.
            BandError: it has not the bands that were asked for.
            InputError: it needs a library that is not installed.
        """
        image = open_image(data, "channel" if self.bands else self.alpha, self.range)
        names = self._names(data, image.channels)
        if not self.bands:
            return Opened(image, None, names)
        chosen = find_bands(self.bands, names, image.channels)
        if len(set(chosen)) < len(chosen):
            raise BandError(f"bands={list(self.bands)} names a band twice, by its name and its number")
        return Opened(image, chosen, tuple(names[number] for number in chosen) if names else ())

    def options(self) -> dict[str, Any]:
        """What decides the bytes beside `alpha`, as plain values; None where nothing was said."""
        names = "none" if self.band_names is None else list(self.band_names) or None
        return {
            "bands": list(self.bands) or None,
            "band_names": names,
            "value_range": self.range and str(tuple(self.range)),
        }

    def _names(self, data: bytes, channels: int) -> tuple[str, ...]:
        if self.band_names is None:
            return ()
        if not self.band_names:
            return band_names_of(data, channels)
        if len(self.band_names) != channels:
            raise BandError(f"it has {channels} bands, and band_names= names {len(self.band_names)}")
        return self.band_names
