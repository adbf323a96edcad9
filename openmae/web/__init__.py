"""A page for a browser on this machine: what serves it, and what it is made of (page/)."""
