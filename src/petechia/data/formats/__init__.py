"""File formats: tables and what their columns mean, image files, DICOM."""
