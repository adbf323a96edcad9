"""`openmae embed`: a vector for each image, and what is near what."""
