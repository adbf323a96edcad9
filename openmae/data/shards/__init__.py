"""Tar shards, read and written. `read_index` tells what a folder of them holds."""

from openmae.data.shards.index import read_index as read_index
