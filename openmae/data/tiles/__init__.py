"""Images cut into windows: where these lie, which of them are empty, how one is read."""
