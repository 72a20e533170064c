"""Wire formats, one file each. A dialect names its paths and shapes its errors."""
