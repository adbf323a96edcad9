"""What all trainings share: their settings, their schedule, the room they take, the job itself."""
