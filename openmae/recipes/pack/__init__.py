"""`openmae pack`: tar shards of smaller images."""
