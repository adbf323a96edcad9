"""What is computed of each image, kept part by part, so that a kill costs some seconds at most."""
