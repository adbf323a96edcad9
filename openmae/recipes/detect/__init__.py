"""`openmae detect`: boxes and outlines of objects."""
