"""`openmae check`: broken files, odd sizes, duplicates, suspicious labels."""
