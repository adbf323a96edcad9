"""What people look at: pictures of reconstructions, curves, and the page of a run. Nothing here trains."""
