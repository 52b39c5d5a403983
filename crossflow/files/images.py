"""Image files, read strictly: an image that cannot be decoded losslessly to 8-bit RGB is refused.

- Greyscale, black-and-white and palette images become RGB exactly; an alpha channel that is opaque everywhere is
  dropped.
- Refused are transparency (the background is unknown), CMYK (its RGB depends on a colour profile), more than 8 bits
  per channel (rounding), several frames, and empty, truncated or otherwise unreadable files.
- Pixels are taken as stored: EXIF orientation and colour profiles are not applied, as in every FID implementation. A
  Notice says that photographs are to be shown turned.
"""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.names import shown

FORMATS = {
    "BMP": (".bmp",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "WEBP": (".webp",),
}
"""Formats that are read, by content: the suffix of a file may be any."""
SUFFIXES = tuple(suffix for several in FORMATS.values() for suffix in several)
PNG_END = b"IEND\xaeB`\x82"
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises on damaged files, and on those of too many pixels."""


TURNED = Notice(
    "Some images say (EXIF) that they are to be shown turned; pixels are taken as they are stored, as in every FID "
    "implementation: turn such photographs first, for instance by `mogrify -auto-orient`."
)


class UnreadableImage(Exception):
    """One image cannot be decoded exactly. The message says why, without the file's name; ``remedy`` what to do."""

    def __init__(self, why: str, remedy: str = "convert it to 8-bit RGB PNG") -> None:
        super().__init__(why)
        self.remedy = remedy


def read_image(path: Path, formats: Iterable[str] = FORMATS) -> Image.Image:
    """Read an image file of one of the ``formats`` as an RGB image.

    CrossFlowError for a file that is missing, and for everything that the module docstring lists as refused.
    """
    try:
        return decode_image(path.read_bytes(), formats)[0]
    except (OSError, UnreadableImage) as error:
        remedy = error.remedy if isinstance(error, UnreadableImage) else "give the path of an image"
        raise CrossFlowError(f"The image {shown(path)} cannot be read ({why_unreadable(error)}): {remedy}.") from error


def decode_image(content: bytes, formats: Iterable[str] = FORMATS) -> tuple[Image.Image, str]:
    """Decode an image file's bytes to an RGB image and the name of its format. Raises UnreadableImage."""
    if not content:
        raise UnreadableImage("zero bytes", "get it again")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UnreadableImage("Pillow was told elsewhere in this process to accept truncated images")
    formats = tuple(formats)
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise UnreadableImage(f"{frames} frames")
            if kind == "PNG" and content[24] > 8:  # the header's bit depth; Pillow would round silently
                raise UnreadableImage(f"{content[24]} bits a channel")
            if kind == "PNG" and PNG_END not in content:  # Pillow does not check for it
                raise UnreadableImage("truncated", "get it again")
            if kind == "PPM" and isinstance(args := image.tile[0].args, tuple) and args[-1] != 255:  # or it rounds
                raise UnreadableImage(f"{args[-1]} as its white, not 255")
            image.load()
            if _is_turned(image):
                warnings.warn(TURNED, stacklevel=2)
            return opaque(image), kind
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(f"not a {', '.join(formats[:-1])} or {formats[-1]} file") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImage(f"it has more than {most:,} pixels, the most that are read", "make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        cut = "truncat" in text.lower()
        raise UnreadableImage("truncated" if cut else text, "get it again" if cut else "make it again") from error


def _is_turned(image: Image.Image) -> bool:
    if "exif" not in image.info:
        return False
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # Pillow documents no list of what damaged EXIF raises, and the pixels are whole
        return False


def read_depth_png(path: Path, scale: float) -> np.ndarray:
    """A 16-bit PNG of depth as float32 [h w]: the stored number divided by ``scale``. Raises CrossFlowError."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            stored = np.asarray(image)
    except DAMAGE as error:
        raise CrossFlowError(f"Cannot read the depth map {path}: {error}.") from error
    if stored.dtype.itemsize < 2 or stored.ndim != 2:
        raise CrossFlowError(
            f"{path} holds {stored.dtype} {list(stored.shape)} where a depth map is a 16-bit PNG of one channel; "
            "a colour-mapped picture of depth cannot be judged."
        )
    return (stored / scale).astype(np.float32)


def why_unreadable(error: Exception) -> str:
    """A short reason why a file could not be opened or decoded."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def opaque(image: Image.Image) -> Image.Image:
    """An image as RGB; UnreadableImage where that would lose something: transparency, another mode of colour."""
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "PA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise UnreadableImage("transparent pixels")
    elif image.mode not in ("1", "L", "P", "RGB"):
        raise UnreadableImage(f"colour mode {image.mode}")
    return image.convert("RGB")
