"""DICOM files, made here."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

NAME, NUMBER = "Mustermann^Erika", "PID-4711-0815"


def scan(array=None, *, signed=False, bits=None, syntax=ExplicitVRLittleEndian, patient=NUMBER, **fields):
    """The bytes of a DICOM file with these pixels, `(H, W)`, `(frames, H, W)` or `(H, W, 3)` of 8 or 16 bits."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = fields.pop("kind", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = syntax
    found = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    found.PatientName, found.PatientID, found.StudyInstanceUID = NAME, patient, "1.2.3.4"
    if array is not None:
        colour = array.ndim == 3 and array.shape[-1] == 3
        found.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        found.SamplesPerPixel, found.PixelRepresentation = (3 if colour else 1), int(signed)
        if colour:
            found.PlanarConfiguration = 0
        elif array.ndim == 3:
            found.NumberOfFrames = len(array)
        found.Rows, found.Columns = array.shape[:2] if colour else array.shape[-2:]
        found.BitsAllocated = array.dtype.itemsize * 8
        found.BitsStored = bits or found.BitsAllocated
        found.HighBit = found.BitsStored - 1
        found.PixelData = array.tobytes()
        found["PixelData"].VR = "OW" if array.dtype.itemsize == 2 else "OB"
    if fields.pop("float_pixels", False):
        del found.PixelData
    for keyword, value in fields.items():
        setattr(found, keyword, value)
    stream = io.BytesIO()
    found.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def table(values, first, bits):
    """An item of a sequence of lookup tables."""
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = list(values)
    item["LUTData"].VR = "US"
    item["LUTDescriptor"].VR = "US"
    return item


def steps(count=256, dtype=np.uint16, height=8):
    """Rows of the numbers from 0 to `count - 1`."""
    return np.tile(np.arange(count, dtype=dtype), (height, 1))
