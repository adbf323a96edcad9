"""What the images are like: sizes, values, what is broken or suspicious."""
