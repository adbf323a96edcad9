"""Jobs that were queued before the house was rebuilt ask for this address."""

from openmae.recipes.launch.task import LaunchedTraining

Training = LaunchedTraining
