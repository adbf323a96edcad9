"""What a call takes in the place of an address."""

import os

Place = str | os.PathLike[str]
"""A file or folder; a Run is one."""
AnyModel = Place
"""A Run, its path, or whatever else openmae.load takes."""
Data = Place
"""What the commands take as DATA."""
Text = str | float | os.PathLike[str]
"""Of settings that are texts: a number is written as one (blocks=4), a path as its text."""
