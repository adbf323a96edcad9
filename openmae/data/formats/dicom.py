"""DICOM by pydicom; what is compressed as JPEG, JPEG-LS or JPEG 2000 by imagecodecs.

A grey pixel is a number that means something: with `dicom_units` "rescaled", what the file's slope and intercept or
its table make of the stored value (Hounsfield units, ...); with "raw", the stored value. The number is the same
whatever the file stores it in, so that one study of two devices has one scale; pixels that the file says are padding
are missing.
Where nobody says, files are read as older models were given them: unsigned numbers without a slope spread over all of 8
or 16 bits, others rescaled, padding as if it were there. Colours are levels, always. No window is applied: that is a
matter of display. MONOCHROME1 is inverted, so that high is white.
"""

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import row_blocks, spread
from openmae.data.formats.codestream import check_jpeg, check_jpeg_2000, segments
from openmae.data.formats.header import MAX_PIXELS, Depth, Header, OpenedImage, Wanted, check_size
from openmae.data.formats.reading import DicomUnits
from openmae.errors import BrokenImage, UserError

if TYPE_CHECKING:
    from pydicom.uid import UID

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_JPEG = "1.2.840.10008.1.2.4."
_JPEG_LS = (_JPEG + "80", _JPEG + "81")
_JPEG_2000 = (_JPEG + "90", _JPEG + "91")
_HIGH_THROUGHPUT = (_JPEG + "201", _JPEG + "202", _JPEG + "203")
_JPEGS = (_JPEG + "50", _JPEG + "51", _JPEG + "57", _JPEG + "70")
_YBR = ("YBR_FULL", "YBR_FULL_422")
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


def open_dicom(data: bytes, units: DicomUnits | None = None) -> OpenedImage:
    """A DICOM file, with its preamble or without."""
    try:
        import pydicom
    except ImportError as error:
        raise UserError("reading DICOM needs pydicom and imagecodecs", "pip install pydicom imagecodecs") from error
    start = 132 if data[128:132] == b"DICM" else 0
    _check_deflated(data, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), force=start == 0)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
        return _open_dataset(dataset, units)


def _guessed_syntax(dataset: Any) -> "UID":
    """How a file that does not say it is written, as pydicom found by trying."""
    from pydicom.uid import UID

    is_implicit, is_little = dataset.original_encoding
    return UID(_IMPLICIT if is_implicit else _EXPLICIT if is_little else _BIG_ENDIAN)


def _check_deflated(data: bytes, start: int) -> None:
    """Raises BrokenImage where the file, whose elements start there, is deflated and would inflate to more than is
    decoded."""
    if _DEFLATED not in data[start:4096]:
        return
    if data[start : start + 6] != b"\2\0\0\0UL":
        raise BrokenImage("its file meta information does not say how long it is")
    (length,) = struct.unpack_from("<I", data, start + 8)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left, size = data[start + 12 + length :], 0
    while left and not inflater.eof:
        size += len(inflater.decompress(left, 2**20))
        left = inflater.unconsumed_tail
        if size > 2 * MAX_PIXELS:
            raise BrokenImage(f"it inflates to more than {2 * MAX_PIXELS:,} bytes")


def _open_dataset(dataset: Any, units: DicomUnits | None) -> OpenedImage:
    frames = int(dataset.get("NumberOfFrames") or 1)
    height, width = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    samples, kind = int(dataset.get("SamplesPerPixel") or 1), str(dataset.get("PhotometricInterpretation"))
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise BrokenImage("it is a DICOM file without pixels")
    if "SegmentedRedPaletteColorLookupTableData" in dataset:  # a few bytes of it may stand for any number of colours
        raise BrokenImage("it has a segmented palette, which is not read here")
    if samples not in (1, 3):
        raise BrokenImage(f"it has {samples} samples a pixel, where DICOM knows 1 and 3")
    is_grey = samples == 1 and kind != "PALETTE COLOR"
    units = units if is_grey else None
    depth = _depth(dataset, units)
    channels = 3 if kind == "PALETTE COLOR" else samples
    # Beside the result, its stored form and two copies of that are in memory for a moment.
    check_size(height, width, channels * (3 + int(dataset.get("BitsAllocated") or 8) // 8), frames)

    def pixels(asked: Wanted) -> NDArray[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = _frame(dataset, asked.frame, (height, width)).reshape(height, width, samples)
            if not is_grey:
                return _colours(stored, dataset, depth)
            meant = _meant(stored, dataset, depth, units, asked.frame)
            missing = None if units is None else _padding(stored, dataset)
            return meant if missing is None else np.ma.array(meant, mask=missing)

    header = Header(
        "DICOM",
        height,
        width,
        channels,
        depth,
        _mode(dataset, kind),
        frames,
        units=_units(dataset) if is_grey else "",
        exact=units is not None,
    )
    return OpenedImage(header, pixels)


def _mode(dataset: Any, kind: str) -> str:
    signed = "signed " if dataset.get("PixelRepresentation") else ""
    return f"{kind}, {signed}{dataset.get('BitsStored')} bits"


def _units(dataset: Any) -> str:
    """What the numbers are in once they are rescaled, as far as the file says it."""
    if not _is_rescaled(dataset):
        return "stored"
    table = dataset.get("ModalityLUTSequence")
    said = table[0].get("ModalityLUTType") if table else dataset.get("RescaleType")
    return str(said or "rescaled")


def _depth(dataset: Any, units: DicomUnits | None) -> Depth:
    """What the pixels become."""
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return "uint8" if dataset.RedPaletteColorLookupTableDescriptor[2] == 8 else "uint16"
    bits = int(dataset.get("BitsStored") or 32)
    if bits > 16 or dataset.get("PixelRepresentation") or "PixelData" not in dataset:
        return "float32"
    if units != "raw" and _is_rescaled(dataset):
        return "float32"
    return "uint8" if bits <= 8 else "uint16"


def _is_rescaled(dataset: Any) -> bool:
    frames = range(len(dataset.get("PerFrameFunctionalGroupsSequence") or "1"))
    return "ModalityLUTSequence" in dataset or any(_rescale(dataset, frame) != (1, 0) for frame in frames)


def _rescale(dataset: Any, frame: int) -> tuple[float, float]:
    """(slope, intercept), of the file or of one frame."""
    places = [dataset]
    for name, which in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        if groups := dataset.get(name):
            places += list(groups[which].get("PixelValueTransformationSequence") or ())
    for place in places:
        if "RescaleSlope" in place or "RescaleIntercept" in place:
            slope, intercept = place.get("RescaleSlope"), place.get("RescaleIntercept")
            return float(1 if slope is None else slope), float(intercept or 0)
    return 1.0, 0.0


def _frame(dataset: Any, frame: int, size: tuple[int, int]) -> NDArray[Any]:
    """(H, W) or (H, W, 3) of stored values; of colours, RGB."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import convert_color_space, get_decoder

    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if not syntax.startswith(_JPEG):
        return get_decoder(syntax).as_array(dataset, index=frame)[0]
    try:
        import imagecodecs
    except ImportError as error:
        raise UserError("reading compressed DICOM needs imagecodecs", "pip install imagecodecs") from error
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    code = get_frame(
        dataset.PixelData,
        frame,
        extended_offsets=offsets,
        number_of_frames=int(dataset.get("NumberOfFrames") or 1),
    )
    kind = str(dataset.PhotometricInterpretation)
    if syntax in _JPEGS:
        return _decode_jpeg(code, kind, size)
    if syntax in _JPEG_LS:
        check_jpeg(code, size)
        stored = imagecodecs.jpegls_decode(code)
    elif syntax in _JPEG_2000 + _HIGH_THROUGHPUT:
        check_jpeg_2000(code, size)
        stored = imagecodecs.jpeg2k_decode(code)
    else:
        raise BrokenImage(f"its transfer syntax {syntax} is not read here")
    return convert_color_space(stored, kind, "RGB") if kind in _YBR else stored


def _decode_jpeg(code: bytes, kind: str, size: tuple[int, int]) -> NDArray[Any]:
    """Baseline, extended or lossless JPEG. What the JPEG says of its colours counts more than what DICOM does."""
    import imagecodecs
    from pydicom.pixels import convert_color_space

    frame = check_jpeg(code, size)
    if len(frame.ids) == 1:
        return imagecodecs.jpeg8_decode(code)
    starts = [code[start:end] for _, start, end in segments(code)]
    adobe = next((start[11:12] for start in starts if start[:5] == b"Adobe" and len(start) > 11), b"")
    jfif = any(start[:4] == b"JFIF" for start in starts)
    is_rgb = frame.ids.upper() == b"RGB"
    ybr = not is_rgb and (kind in _YBR or jfif or adobe == b"\1")
    if frame.lossless:  # never converted by the decoder
        stored = imagecodecs.jpeg8_decode(code, colorspace="RGB", outcolorspace="RGB")
        return convert_color_space(stored, "YBR_FULL", "RGB") if ybr else stored
    return imagecodecs.jpeg8_decode(code, colorspace="YCBCR" if ybr else "RGB", outcolorspace="RGB")


def _colours(stored: NDArray[Any], dataset: Any, depth: Depth) -> NDArray[Any]:
    """Stored values (H, W, 1 or 3) -> (H, W, 3) over all of `depth`."""
    from pydicom.pixels import apply_color_lut

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(stored[..., 0], dataset)[..., :3]  # it may have an alpha too
        return colours.astype(depth) if depth == "uint16" else (colours & 255).astype(np.uint8)
    stored = _values(stored, dataset)
    return stored.astype(np.float32) if depth == "float32" else spread(stored, int(dataset.get("BitsStored") or 32))


def _values(stored: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Stored values as numbers."""
    if stored.dtype.kind == "f":
        return stored
    return _sign_extended(stored, int(dataset.get("BitsStored") or 32), bool(dataset.get("PixelRepresentation")))


def _meant(stored: NDArray[Any], dataset: Any, depth: Depth, units: DicomUnits | None, frame: int) -> NDArray[Any]:
    """Stored grey values (H, W, 1) -> what they mean, of `depth`."""
    bits = int(dataset.get("BitsStored") or 32)
    values = _values(stored, dataset)
    table = dataset.get("ModalityLUTSequence") if units != "raw" else None
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    if inverted and not table:
        values = _inverted(values, bits)
    if depth != "float32":
        return spread(values, bits) if units is None else values.astype(depth)
    slope, intercept = (1.0, 0.0) if units == "raw" else _rescale(dataset, frame)
    meant = np.empty(values.shape, np.float32)
    with np.errstate(over="ignore"):
        for rows in row_blocks(*values.shape[:2]):
            meant[rows] = _looked_up(values[rows], dataset) if table else values[rows] * np.float64(slope) + intercept
    return 2 ** int(table[0].LUTDescriptor[2]) - 1 - meant if inverted and table else meant


def _looked_up(values: NDArray[Any], dataset: Any) -> NDArray[Any]:
    from pydicom.pixels import apply_modality_lut

    return apply_modality_lut(values, dataset)


def _inverted(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """What was high is low, in the same range."""
    if values.dtype.kind == "f":
        return values
    return ~values if values.dtype.kind == "i" else values.dtype.type(2**bits - 1) - values


def _padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_] | None:
    """(H, W, 1) which pixels only fill the rectangle: of the padding value, or from it to the end of its range, which
    may be below; None where the file names none."""
    value = dataset.get("PixelPaddingValue", dataset.get("FloatPixelPaddingValue"))
    if value is None:
        value = dataset.get("DoubleFloatPixelPaddingValue")
    if value is None:
        return None
    limits = ("PixelPaddingRangeLimit", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingRangeLimit")
    limit = next((dataset.get(name) for name in limits if dataset.get(name) is not None), value)
    values = _values(stored, dataset)
    first, last = (_as_stored(number, dataset) for number in (value, limit))
    return (values >= min(first, last)) & (values <= max(first, last))


def _as_stored(number: Any, dataset: Any) -> float:
    """A padding value, which some writers give as unsigned though the pixels are signed, and the other way round."""
    if "PixelData" not in dataset:
        return float(number)
    bits, signed = int(dataset.get("BitsAllocated") or 16), bool(dataset.get("PixelRepresentation"))
    whole = int(number) & (2**bits - 1)
    return whole - 2**bits if signed and whole >= 2 ** (bits - 1) else whole


def _sign_extended(stored: NDArray[Any], bits: int, signed: bool) -> NDArray[Any]:
    """The low `bits` of each value; what lies above them means nothing, and a codec may have lost the sign."""
    size = max(stored.dtype.itemsize, (bits + 7) // 8)
    native = stored.astype(f"{stored.dtype.kind}{size}", copy=False)
    whole = native.view(f"i{size}" if signed else f"u{size}")
    unused = size * 8 - bits
    if unused:
        whole = whole << unused
        whole >>= unused
    return whole
