"""Image files, read strictly: an image that cannot be decoded losslessly to 8-bit RGB is refused.

- Greyscale, black-and-white and palette images become RGB exactly; an alpha channel that is opaque everywhere is
  dropped.
- Refused are transparency (the background is unknown), CMYK (its RGB depends on a colour profile), more than 8 bits
  per channel (rounding), several frames, and empty, truncated or otherwise unreadable files.
- Pixels are taken as stored: EXIF orientation and colour profiles are not applied, as in every FID implementation.
"""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageFile

from crossflow.errors import CrossFlowError

FORMATS = {"BMP": (".bmp",), "JPEG": (".jpeg", ".jpg"), "PNG": (".png",), "WEBP": (".webp",)}
"""Formats that are read, by content: the suffix of a file may be any."""
SUFFIXES = tuple(suffix for several in FORMATS.values() for suffix in several)
PNG_END = b"IEND\xaeB`\x82"


class UnreadableImage(Exception):
    """One image cannot be decoded exactly. The message says why, without the file's name."""


def read_image(path: Path, formats: Iterable[str] = FORMATS) -> Image.Image:
    """Read an image file of one of the ``formats`` as an RGB image.

    CrossFlowError for a file that is missing, and for everything that the module docstring lists as refused.
    """
    try:
        return decode_image(path.read_bytes(), formats)[0]
    except (OSError, UnreadableImage) as error:
        raise CrossFlowError(
            f"The image {path} cannot be read ({why_unreadable(error)}): convert it to 8-bit RGB PNG."
        ) from error


def decode_image(content: bytes, formats: Iterable[str] = FORMATS) -> tuple[Image.Image, str]:
    """Decode an image file's bytes to an RGB image and the name of its format. Raises UnreadableImage."""
    if not content:
        raise UnreadableImage("zero bytes")
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
                raise UnreadableImage("truncated")
            image.load()
            return _rgb(image), kind
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(f"not a {', '.join(formats[:-1])} or {formats[-1]} file") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage("truncated" if "truncat" in text.lower() else text) from error


def why_unreadable(error: Exception) -> str:
    """A short reason why a file could not be opened or decoded."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _rgb(image: Image.Image) -> Image.Image:
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "PA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise UnreadableImage("transparent pixels")
    elif image.mode not in ("1", "L", "P", "RGB"):
        raise UnreadableImage(f"colour mode {image.mode}")
    return image.convert("RGB")
