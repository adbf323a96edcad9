"""Questions that several runs answer together: a study is a folder of ordinary run folders, and what they add up to."""
