"""A folder of pictures as one array uint8 [N, H, W, C].

Pictures of several sizes or modes are refused with the counts: how they should become alike is the
user's decision (``size``, ``channels``), and what was done is said in notes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from energyscape.data.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PICTURE_SUFFIXES", "Pictures", "read_pictures"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_CONVERTED = ("CMYK", "LAB", "YCbCr", "HSV")
_MODE_OF = {1: "L", 3: "RGB", 4: "RGBA"}


class Pictures(NamedTuple):
    """``pictures`` uint8 [N, H, W, C]; ``labels`` (folder names) or None; ``paths``; ``notes``."""

    pictures: np.ndarray
    labels: np.ndarray | None
    paths: list[str]
    notes: list[str]


def read_pictures(
    folder: str | Path,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
) -> Pictures:
    """All pictures below a folder, in the order of their paths.

    Two-level (mode "1") pictures keep the values 0 and 1, unless `size` or `channels` is given:
    black is 0 and white 255 then. Palettes are looked up. Names of the folders in between become
    labels.

    Parameters
    ----------
    size : (height, width), or one number for both, to resize to; None: all must have one size.
    channels : 1 (grey), 3 (colour) or 4 (with opacity); None: all must have one mode.

    Raises
    ------
    DataError : no picture, a damaged one (named), several sizes or modes (counted).

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for i in range(2):
    ...     Image.new("L", (3, 2), color=i).save(folder / f"{i}.png")
    >>> read_pictures(folder).pictures.shape
    (2, 2, 3, 1)
    """
    folder = Path(folder)
    target = _target(size)
    if channels is not None and channels not in _MODE_OF:
        raise DataError(f"channels is {channels}; use 1 (grey), 3 (colour) or 4 (with opacity)")
    files = _files(folder)
    paths = [p for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
    if not paths:
        first = f", but {files[0].relative_to(folder)}" if files else ""
        raise DataError(f"{folder} holds no picture ({', '.join(PICTURE_SUFFIXES)}){first}")
    notes = []
    if len(files) > len(paths):
        other = next(p for p in files if p.suffix.lower() not in PICTURE_SUFFIXES)
        notes.append(f"{len(files) - len(paths)} files are no pictures (first: {other.name})")
    arrays, seen = [], _Seen()
    for path in paths:
        arrays.append(_read(path, target, channels, seen))
    if target is None:
        _refuse_mixture(folder, "sizes", seen.sizes, "say --size HEIGHTxWIDTH (size= in Python)")
    if channels is None:
        _refuse_mixture(
            folder, "modes", seen.modes, "say --channels 1, 3 or 4 (channels= in Python)"
        )
    notes += seen.notes(target, channels)
    labels = np.array([path.parent.relative_to(folder).as_posix() for path in paths])
    several = len(set(labels.tolist())) > 1
    return Pictures(
        np.stack(arrays), labels if several else None, [str(path) for path in paths], notes
    )


def _target(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise DataError(f"size is {size}; give (height, width), both at least 1")
    return int(pair[0]), int(pair[1])


def _files(folder: Path) -> list[Path]:
    """Every file below a folder, also through links to other folders, each folder once."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [Path(root, name) for name in names]
    return sorted(path for path in found if not _hidden(path, folder))


def _hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


class _Seen:
    """What was met while reading, for errors and notes."""

    def __init__(self) -> None:
        self.sizes: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.frames = 0
        self.turned = 0
        self.clear_palettes = 0

    def notes(self, target: tuple[int, int] | None, channels: int | None) -> list[str]:
        said = []
        if target is not None and set(self.sizes) != {_size(target)}:
            said.append(f"resized to {_size(target)} from {_counted(self.sizes)}")
        wanted = {_MODE_OF[channels]} if channels else set(self.modes)
        if set(self.modes) != wanted:
            said.append(f"converted to {channels} channel(s) from mode {_counted(self.modes)}")
        if channels is None and set(self.modes) == {"1"} and target is None:
            said.append("two-level pictures: values 0 and 1")
        elif channels is None and set(self.modes) == {"P"}:
            said.append("palette pictures: looked up as RGB")
        if channels is None:
            said += [f"mode {m}: converted to RGB" for m in self.modes if m in _CONVERTED]
        if self.clear_palettes:
            said.append(f"{self.clear_palettes} palettes with opacity: looked up as RGBA")
        if self.frames:
            said.append(f"{self.frames} animated: the first frame of each is taken")
        if self.turned:
            said.append(f"{self.turned} turned upright as their EXIF record says")
        return said


def _read(
    path: Path, target: tuple[int, int] | None, channels: int | None, seen: _Seen
) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            opened.load()
            seen.frames += getattr(opened, "n_frames", 1) > 1
            upright = ImageOps.exif_transpose(opened)
            seen.turned += opened.getexif().get(0x0112, 1) != 1
            image = upright.copy()
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
                seen.clear_palettes += 1
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large to read safely; make it smaller first") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is damaged or no picture ({reason}); mend or remove it") from error
    seen.sizes[_size((image.height, image.width))] += 1
    seen.modes[image.mode] += 1
    image = _convert(image, target, channels, path)
    if target is not None and (image.height, image.width) != target:
        image = image.resize((target[1], target[0]), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    array = array.astype(np.uint8) if array.dtype != np.uint8 else array
    return array[:, :, None] if array.ndim == 2 else array


def _convert(
    image: Image, target: tuple[int, int] | None, channels: int | None, path: Path
) -> Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        if channels is None or image.mode == "F":
            raise DataError(
                f"{path} has more than 8 bits a pixel (mode {image.mode}); "
                + ("convert it first" if image.mode == "F" else "say --channels 1 to reduce it")
            )
        from PIL import Image as Pillow

        image = Pillow.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    if channels is not None:
        return image if image.mode == _MODE_OF[channels] else image.convert(_MODE_OF[channels])
    if image.mode == "1":
        return image.convert("L") if target is not None else image
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    return image.convert({"LA": "RGBA", "PA": "RGBA"}.get(image.mode, "RGB"))


def _size(pair: Any) -> str:
    return f"{pair[0]}x{pair[1]}"


def _counted(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in counts.most_common(6))
    return shown + (f" and {len(counts) - 6} more" if len(counts) > 6 else "")


def _refuse_mixture(folder: Path, what: str, counts: Counter[str], advice: str) -> None:
    if len(counts) > 1:
        raise DataError(f"{folder} holds pictures of several {what}: {_counted(counts)}; {advice}")
