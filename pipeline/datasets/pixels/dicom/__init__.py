"""DICOM: what a file says of itself, and its images as a viewer first shows them."""
