"""Image files and their pixels: pictures, DICOM, intensities, content keys."""
