"""What `openmae segment` and `openmae detect` share: an encoder learns where things are."""
