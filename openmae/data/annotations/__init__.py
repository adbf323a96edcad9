"""What images show and where: classes of pixels, outlines and boxes of objects, from files beside the images."""
