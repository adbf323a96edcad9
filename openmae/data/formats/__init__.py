"""One file per kind of image file: its bytes -> its header, and a function that decodes it."""
